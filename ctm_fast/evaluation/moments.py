"""Mean and covariance of features that come in batches, on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor

from .ranks import summed


class Moments:
    """Mean and centred scatter in float64, updated batch by batch and merged over processes.

    The scatter is kept around the current mean, so a large mean costs no digits, which a sum of
    raw products would lose.

    Args:
        width: number of features, D.
        device: where the sums are kept.

    Source: Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm for computing
        sample variances, Eq. 2.1.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.mean = torch.zeros(width, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, features: Tensor) -> None:
        """Take in features (b, D) of any floating dtype."""
        if not len(features):
            return
        features = features.to(self.mean)
        mean = features.mean(0)
        centred = features - mean
        total = self.count + len(features)
        shift = mean - self.mean
        self.scatter.addmm_(centred.T, centred)
        self.scatter.addr_(shift, shift, alpha=self.count * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.count = total

    def merge(self) -> None:
        """Become the moments of all processes together; the same on each."""
        number = torch.tensor(self.count, dtype=torch.int64, device=self.mean.device)
        total = int(summed(number))
        if total == 0:
            return
        mean = summed(self.mean * (self.count / total))
        shift = self.mean - mean
        self.scatter.addr_(shift, shift, alpha=self.count)
        summed(self.scatter)
        self.mean, self.count = mean, total

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (D, D) float64.

        Raises:
            ValueError: for fewer than two images.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 images, got {self.count}")
        return self.scatter / (self.count - 1)
