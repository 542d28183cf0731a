"""What is known of an image: some pixels, its luma, or the means of its patches.

Legend: A is `measure`, A+ its pseudo-inverse `spread`, with A A+ = 1; A+ A is the orthogonal
projector on the known part of an image.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from .checks import checked_shape, checked_values

Shape = tuple[int, ...]
O = TypeVar("O", bound="Operator")

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
HALVINGS = 64  # of the interval that holds a shift, in float64


class Operator(ABC):
    """A linear map whose value is known, one that takes no two values of one pixel.

    In a suitable orthonormal basis of the image space, some coordinates are known and the others
    are not; this is Song et al.'s A and mask, without the matrix.
    """

    @abstractmethod
    def measure(self, images: Tensor) -> Tensor:
        """A x: what is known of images (batch, C, H, W), (batch, *measured_shape)."""

    @abstractmethod
    def spread(self, measured: Tensor) -> Tensor:
        """A+ m: the smallest images of which `measured` is known, (batch, C, H, W)."""

    @abstractmethod
    def measured_shape(self, shape: Shape) -> Shape:
        """Shape of what is known of one image of this shape, (C, H, W).

        Raises:
            ValueError: for images that the operator does not fit.
        """

    def rows(self: O, rows: slice, device: torch.device | str = "cpu") -> O:
        """The operator of some images of a batch, with what it holds on a device."""
        return self

    def replaced(self, images: Tensor, measured: Tensor) -> Tensor:
        """Images whose known part is `measured`, x + A+ (m - A x), shape of the images."""
        return images + self.spread(measured - self.measure(images))

    def clipped(self, images: Tensor, measured: Tensor) -> Tensor:
        """The images in [-1, 1] nearest to these whose known part is `measured`.

        They are clamp(x + A+ l) with one number l for each measured one, found by halving an
        interval.

        Args:
            images: (batch, C, H, W).
            measured: what is known, in [-1, 1].
        """
        x, wanted = images.double(), measured.double()
        reach = self.spread(torch.ones_like(wanted))
        bound = (x.abs().max() + 1) / reach[reach > 0].min()
        low, high = torch.full_like(wanted, -1) * bound, torch.ones_like(wanted) * bound
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            less = self.measure((x + self.spread(middle)).clamp(-1, 1)) < wanted
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return (x + self.spread((low + high) / 2)).clamp(-1, 1).to(images.dtype)

    def checked(self, known: Tensor, shape: Shape, bounded: bool) -> Tensor:
        """What is known of every image, (batch, *measured_shape).

        Args:
            known: as a caller gives it.
            shape: of one image.
            bounded: whether pixels lie in [-1, 1].

        Raises:
            ValueError: for another shape, or values that are not finite or not in range.
        """
        return checked_values(known, self.measured_shape(shape), bounded, "what is known")


@dataclass(frozen=True, eq=False)
class Inpainting(Operator):
    """Some pixels are known, the others are to be painted.

    Args:
        known: the mask, true or 1 where a pixel is known: (H, W), (1 or C, H, W), or one for each
            image, (batch, 1 or C, H, W).

    Raises:
        ValueError: for a mask of another number of dimensions, with other values than 0 and 1, or
            without a known or without an unknown pixel in some image.

    Source: Song et al. 2023, Appendix D.
    """

    known: Tensor  # bool once it is made

    def __post_init__(self) -> None:
        mask = self.known
        if not isinstance(mask, Tensor) or mask.ndim not in (2, 3, 4) or mask.numel() == 0:
            shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"the mask is {shape}; need (H, W), (C, H, W) or (batch, C, H, W)")
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                f"the mask has values from {mask.min().item()} to {mask.max().item()}; need 1 "
                "where a pixel is known and 0 elsewhere"
            )
        mask = (mask != 0).clone()
        mask = mask.expand(1, *mask.shape) if mask.ndim == 2 else mask
        images = mask if mask.ndim == 4 else mask[None]
        for name, wrong in (("no", ~images), ("every", images)):
            if bool((every := wrong.flatten(1).all(1)).any()):
                raise ValueError(
                    f"{name} pixel is known by the mask of image {int(every.nonzero()[0])}; need "
                    "at least one known and one unknown pixel"
                )
        object.__setattr__(self, "known", mask)

    def measure(self, images: Tensor) -> Tensor:
        """Images with 0 at the unknown pixels, (batch, C, H, W)."""
        return torch.where(self._on(images), images, images.new_zeros(()))

    def spread(self, measured: Tensor) -> Tensor:
        """The same images, shape of `measured`."""
        return self.measure(measured)

    def measured_shape(self, shape: Shape) -> Shape:
        """That of the images.

        Raises:
            ValueError: if the mask does not fit them.
        """
        channels, *size = self.known.shape[-3:]
        if tuple(size) != tuple(shape[1:]) or channels not in (1, shape[0]):
            raise ValueError(
                f"the mask is {tuple(self.known.shape)} and the model's images are {shape}; need "
                f"{shape[1:]}, or 1 or {shape[0]} of them"
            )
        return shape

    def rows(self, rows: slice, device: torch.device | str = "cpu") -> Inpainting:
        """With the masks of some images, where every image has its own, on a device."""
        return Inpainting((self.known[rows] if self.known.ndim == 4 else self.known).to(device))

    def replaced(self, images: Tensor, measured: Tensor) -> Tensor:
        """Images with the known pixels of `measured`, bit by bit."""
        return torch.where(self._on(images), measured, images)

    def clipped(self, images: Tensor, measured: Tensor) -> Tensor:
        """Images in [-1, 1] with the known pixels of `measured`, bit by bit."""
        return self.replaced(images.clamp(-1, 1), measured)

    def checked(self, known: Tensor, shape: Shape, bounded: bool) -> Tensor:
        """The images with 0 at the unknown pixels, where any value may be given.

        Raises:
            ValueError: as `Operator.checked`, or for another number of images than of masks.
        """
        shape = self.measured_shape(shape)
        checked_shape(known, shape, "what is known")
        if self.known.ndim == 4 and len(self.known) != len(known):
            raise ValueError(f"{len(self.known)} masks for {len(known)} images; need one each")
        return checked_values(self.measure(known), shape, bounded, "what is known")

    def _on(self, images: Tensor) -> Tensor:
        return self.known.to(images.device)


@dataclass(frozen=True)
class Colourisation(Operator):
    """The luma of every pixel is known, its colour is not. Measured: (batch, 1, H, W) in [-1, 1].

    Args:
        weights: of red, green and blue in the luma; positive, of sum 1.

    Raises:
        ValueError: for other weights.

    Source: Song et al. 2023, Appendix D, with the luma as first axis of the rotated colours.
    """

    weights: tuple[float, float, float] = LUMA

    def __post_init__(self) -> None:
        weights = tuple(float(weight) for weight in self.weights)
        positive = all(math.isfinite(weight) and weight > 0 for weight in weights)
        if len(weights) != 3 or not positive or not math.isclose(sum(weights), 1, rel_tol=1e-6):
            raise ValueError(f"the weights are {self.weights}; need three positive ones of sum 1")
        object.__setattr__(self, "weights", weights)

    def measure(self, images: Tensor) -> Tensor:
        """Luma, (batch, 1, H, W)."""
        # Numbers and no tensor of weights, which a GPU would have to wait for in every step.
        red, green, blue = (w * images[:, i : i + 1] for i, w in enumerate(self.weights))
        return red + green + blue

    def spread(self, measured: Tensor) -> Tensor:
        """w m / |w|^2 with the weights w, (batch, 3, H, W)."""
        square = sum(weight**2 for weight in self.weights)
        return torch.cat([weight / square * measured for weight in self.weights], 1)

    def measured_shape(self, shape: Shape) -> Shape:
        """(1, H, W).

        Raises:
            ValueError: unless the images have three channels.
        """
        if len(shape) != 3 or shape[0] != 3:
            raise ValueError(f"the model's images are {shape}; colours need (3, H, W)")
        return 1, *shape[1:]


@dataclass(frozen=True)
class SuperResolution(Operator):
    """The mean of every patch is known, its details are not.

    Measured: the small images, (batch, C, H / factor, W / factor) in [-1, 1].

    Args:
        factor: side of a patch in pixels, at least 2; divides both sides of the image.

    Raises:
        ValueError: for another factor.

    Source: Song et al. 2023, Appendix D, with the mean as first axis of the rotated patches.
    """

    factor: int

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 2:
            raise ValueError(f"factor is {self.factor!r}; it must be an integer, at least 2")

    def measure(self, images: Tensor) -> Tensor:
        """Means of the patches, (batch, C, H / factor, W / factor)."""
        return functional.avg_pool2d(images, self.factor)

    def spread(self, measured: Tensor) -> Tensor:
        """Every mean at all pixels of its patch, (batch, C, H, W)."""
        return measured.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)

    def measured_shape(self, shape: Shape) -> Shape:
        """(C, H / factor, W / factor).

        Raises:
            ValueError: unless the factor divides both sides.
        """
        channels, height, width = shape
        if height % self.factor or width % self.factor:
            raise ValueError(f"factor {self.factor} does not divide the images, {height}x{width}")
        return channels, height // self.factor, width // self.factor
