"""The 1,797 real 8x8 digits that come with the package. Alpaydin and Kaynak 1998, UCI."""

from __future__ import annotations

from importlib import resources

import numpy as np

from .dataset import ArrayDataset

WHITE = 16  # the scans have 17 grey levels, 0 to 16


class Digits(ArrayDataset):
    """Handwritten digits, (1, 8, 8) with ten classes, scaled by x = v / 8 - 1.

    The same images in the same order as scikit-learn's `load_digits`, which is not needed: the
    numbers are stored in the package.

    Source: E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine
    Learning Repository, https://doi.org/10.24432/C50P49, CC BY 4.0.
    """

    flippable = False

    def __init__(self) -> None:
        with resources.files(__package__).joinpath("digits.npz").open("rb") as file:
            with np.load(file, allow_pickle=False) as arrays:
                images, labels = arrays["images"], arrays["labels"]
        super().__init__(images[:, None], labels, name="digits", num_classes=10, white=WHITE)
