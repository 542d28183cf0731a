"""KID and Inception score of features, computed by torchmetrics with seeds of our own."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.rng import stream_seed

SUBSETS, SUBSET_SIZE = 100, 1000  # of KID
SPLITS = 10  # of the Inception score

# Every process has all features already; torchmetrics would put them together once more.
_ALONE = {"sync_on_compute": False}
_KID, _IS = 0x6B6964, 0x6973  # keep these streams apart from others with the same seed


def kid(
    features: Tensor,
    real: Tensor,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """(mean, standard deviation over the subsets) of the kernel distance, in float64.

    Args:
        features: (N, D) of generated images.
        real: (M, D) of real images.
        subsets: how many random pairs of subsets.
        subset_size: images per subset, at most min(N, M).
        seed: of the subsets; the result is a function of all arguments.

    Raises:
        ValueError: for features that do not fit, subsets larger than a set, or of fewer than 2.
        ImportError: without torchmetrics.

    Source: Binkowski et al. 2018, arXiv:1801.01401; cubic polynomial kernel.
    """
    if features.ndim != 2 or real.ndim != 2 or features.shape[1] != real.shape[1]:
        raise ValueError(
            f"features {tuple(features.shape)} and {tuple(real.shape)}; need (N, D) and (M, D)"
        )
    most = min(len(features), len(real))
    if subsets < 1 or not 2 <= subset_size <= most:
        raise ValueError(
            f"{subsets} subsets of {subset_size} images; allowed are at least 1, of 2 to {most}"
        )
    with _seeded(stream_seed(seed, _KID)):
        metric = _torchmetrics("image.kid", "KernelInceptionDistance")(
            feature=nn.Identity(), subsets=subsets, subset_size=subset_size, **_ALONE
        )
        metric.update(real.cpu().double(), real=True)
        metric.update(features.cpu().double(), real=False)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def inception_score(logits: Tensor, splits: int = SPLITS, seed: int = 0) -> tuple[float, float]:
    """(mean, standard deviation over the splits), >= 1, in float64.

    Args:
        logits: (N, K) of generated images.
        splits: parts into which the shuffled images are cut, at least 2 and at most N.
        seed: of the shuffle.

    Raises:
        ValueError: for logits of another shape or a number of splits outside its range.
        ImportError: without torchmetrics.

    Source: Salimans et al. 2016, arXiv:1606.03498.
    """
    if logits.ndim != 2 or not 2 <= splits <= len(logits):
        raise ValueError(
            f"{splits} splits of logits {tuple(logits.shape)}; need (N, K) and 2 to N splits"
        )
    with _seeded(stream_seed(seed, _IS)):
        metric = _torchmetrics("image.inception", "InceptionScore")(
            feature=nn.Identity(), splits=splits, **_ALONE
        )
        metric.update(logits.cpu().double())
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def require_torchmetrics() -> None:
    """Do nothing, or raise ImportError with what to install."""
    _torchmetrics("image.kid", "KernelInceptionDistance")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torchmetrics draws from the global generator, which is as it was afterwards."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It says that all features are held in memory, as they must be.
        warnings.filterwarnings("ignore", message="Metric .* will save all extracted features")
        torch.random.default_generator.manual_seed(seed)
        yield


def _torchmetrics(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"torchmetrics.{module}"), name)
    except ImportError as error:
        raise ImportError(
            f"KID and the Inception score need torchmetrics (pip install 'ctm_fast[eval]'): {error}"
        ) from None
