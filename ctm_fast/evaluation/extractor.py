"""`Extractor`: any network that gives features of images, and what a card says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .pixels import coloured, resized
from .weights import module_sha256


@dataclass(frozen=True)
class Extractor:
    """Features, and class logits where the network gives them, of images in bytes.

    Args:
        network: called with (b, 3, H, W) uint8; returns features (b, D), or a pair of features
            and logits (b, K). A module must be in eval mode already.
        name: for the card.
        sha256: of its weights; measured for a module if not given, None for other callables.
        side: images are resized to side x side before the network sees them; None: they are not.
        resizing: what the network itself does to the size, for the card.
        device: where the images are brought.

    Raises:
        ValueError: for a side below 1 or a module in training mode.
    """

    network: Callable[[Tensor], Any]
    name: str
    sha256: str | None = None
    side: int | None = None
    resizing: str = "none"
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        if self.side is not None and self.side < 1:
            raise ValueError(f"side must be at least 1, got {self.side}")
        if isinstance(self.network, nn.Module):
            if self.network.training:
                raise ValueError(f"the extractor {self.name!r} is in training mode; call .eval()")
            if self.sha256 is None:
                object.__setattr__(self, "sha256", module_sha256(self.network))

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(features (b, D), logits (b, K) or None) of images (b, 1 or 3, H, W) uint8.

        Raises:
            ValueError: for images of another kind, or an answer that is not of these shapes or not
                finite.
        """
        images = coloured(pixels).to(self.device)
        if self.side is not None:
            images = resized(images, self.side)
        answer = self.network(images)
        features, logits = answer if isinstance(answer, tuple | list) else (answer, None)
        for what, value in (("features", features), ("logits", logits)):
            if value is None and what == "logits":
                continue
            if not isinstance(value, Tensor) or value.ndim != 2 or len(value) != len(images):
                got = getattr(value, "shape", type(value).__name__)
                raise ValueError(
                    f"the extractor {self.name!r} gave {what} {got} for {len(images)} images; "
                    f"need (b, D) features or a pair of (b, D) features and (b, K) logits"
                )
            if not bool(value.isfinite().all()):
                raise ValueError(f"the extractor {self.name!r} gave {what} that are not finite")
        return features, logits

    def described(self) -> dict[str, Any]:
        """Name, SHA-256 of the weights and resize rule; JSON types."""
        outside = "none" if self.side is None else f"bilinear to {self.side}, rounded to 256 levels"
        resize = self.resizing if outside == "none" else outside
        return {"name": self.name, "sha256": self.sha256, "resize": resize}
