"""Denoising score matching (DSM), EDM's pretraining loss. Karras et al. 2022, arXiv:2206.00364."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..denoiser import Denoiser
from ..densities import AnyDensity, LogNormal
from ..kernels.add_noise import add_noise
from ..registry import choice
from .objective import Batch, Models, OneTerm


def noised(images: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """images + sigma * noise, (batch, C, H, W); `sigma` is (batch,)."""
    return images + sigma.reshape(-1, 1, 1, 1) * noise


def denoising_loss(
    model: Denoiser,
    images: Tensor,
    sigma: Tensor,
    noise: Tensor,
    labels: Tensor | None,
    **extra: Tensor,
) -> Tensor:
    """lambda(sigma) |D(images + sigma noise, sigma) - images|^2, mean over pixels: (batch,).

    lambda = (sigma^2 + sd^2)/(sigma sd)^2, so the effective weight on the network output is 1.
    `extra` is told to the network besides. Source: Karras et al. 2022, Eq. 8 and Table 1.
    """
    noisy, scaled = add_noise(images, noise, sigma, model.precond.c_in(sigma))
    denoised = model(noisy, sigma, labels, scaled=scaled, **extra)
    return denoising_error(denoised, images, sigma, model.sigma_data)


def denoising_error(denoised: Tensor, images: Tensor, sigma: Tensor, sigma_data: float) -> Tensor:
    """lambda(sigma) |denoised - images|^2, mean over pixels: (batch,); see `denoising_loss`."""
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weight * ((denoised - images) ** 2).flatten(1).mean(1)


@dataclass(frozen=True)
class DSM(OneTerm):
    """Denoising score matching: teaches a network E[image | noisy image] at every noise level.

    With `label_dropout` > 0 that share of the labels is replaced by "no label" (all zeros), which
    classifier-free guidance needs.
    """

    term: ClassVar[str] = "dsm"
    capturable: ClassVar[bool] = True  # the loss depends on the batch's tensors alone
    augmentable: ClassVar[bool] = True  # tells the network how images were augmented

    density: AnyDensity = choice("ctm_fast.densities:DENSITIES", LogNormal)  # training noise levels
    label_dropout: float = 0.0  # share of images trained without label, in [0, 1]

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must be in [0, 1], got {self.label_dropout}")

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Noise levels, unit noise and which labels are kept."""
        device = generator.device
        sigma = self.density.sample(batch_size, generator)
        noise = torch.randn(batch_size, *shape, generator=generator, device=device)
        draw = {"sigma": sigma.to(noise), "noise": noise}
        if self.label_dropout > 0:
            uniform = torch.rand(batch_size, generator=generator, device=device)
            draw["keep_label"] = uniform >= self.label_dropout
        return draw

    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Nothing to prepare."""

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Weighted squared error per image, (batch,)."""
        student, draw = models.student, batch.draw
        labels = batch.labels
        if labels is not None and "keep_label" in draw:
            one_hot = functional.one_hot(labels, student.label_dim).to(batch.images.dtype)
            labels = one_hot * draw["keep_label"][:, None]
        told = {k: draw[k] for k in ("augment_labels",) if k in draw}
        return denoising_loss(student, batch.images, draw["sigma"], draw["noise"], labels, **told)
