"""A network, data and runs so small that a training step takes milliseconds."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from ctm_fast.data import ArrayDataset
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import CTM, DSM, Batch, MeanFlow, Models
from ctm_fast.rng import stream
from ctm_fast.trainer import Trainer

SIZE, CLASSES, CHANNELS = 4, 3, 8
FLOW_MAP = MeanFlow()  # differentiates the student inside its loss


class TinyNet(nn.Module):
    """Two convolutions between which noise levels and labels are added."""

    img_channels, img_resolution, label_dim, augment_dim = 1, SIZE, CLASSES, 0

    def __init__(self, destination: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.has_destination = destination
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.levels = nn.Linear(2, CHANNELS)
        self.classes = nn.Linear(CLASSES, CHANNELS, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.last_layer = nn.Conv2d(CHANNELS, 1, 3, padding=1)
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, x: Tensor, c_noise: Tensor, c_noise_to: Tensor | None = None, labels: Any = None
    ) -> Tensor:
        hidden = self.hidden(x, c_noise, c_noise if c_noise_to is None else c_noise_to, labels)
        return self.last_layer(self.dropout(hidden)) * self.scale

    def features(self, x: Tensor, c_noise: Tensor, labels: Any = None) -> list[Tensor]:
        return [self.hidden(x, c_noise, c_noise, labels)]

    def hidden(self, x: Tensor, c_noise: Tensor, c_noise_to: Tensor, labels: Any) -> Tensor:
        added = self.levels(torch.stack([c_noise, c_noise_to], 1).to(self.levels.weight))
        if labels is not None:
            added = added + self.classes(nn.functional.one_hot(labels, CLASSES).to(added))
        return torch.tanh(self.first(x) + added[:, :, None, None])


def denoiser(seed: int = 0, kind: str | None = None, **options: Any) -> Denoiser:
    """Tiny model with weights that depend on `seed` only."""
    model = Denoiser(TinyNet(**options), kind=kind)
    generator = stream(seed, 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    return model


def dataset(size: int = 24) -> ArrayDataset:
    """Random images of three classes."""
    generator = stream(5)
    pixels = torch.randint(0, 256, (size, 1, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    return ArrayDataset(pixels, torch.arange(size) % CLASSES, "tiny")


def trainer(objective: Any = None, **options: Any) -> Trainer:
    """Trainer of a tiny CTM; options as of `Trainer`, and `dropout` and `student`."""
    objective = CTM(num_scales=4) if objective is None else objective
    wanted: dict[str, Any] = {"dropout": options.pop("dropout", 0.0)}
    if getattr(objective, "student_kind", None) == "consistency":
        wanted |= {"kind": "consistency", "destination": False}
    student = options.pop("student", None) or denoiser(**wanted)
    defaults = dict(data=dataset(), batch_size=8, steps=6, lr=1e-2, log_every=2, progress_bar=False)
    if "teacher" in objective.needs and "teacher" not in options:
        defaults["teacher"] = denoiser(seed=1, destination=False)
    return Trainer(objective, student, **{**defaults, **options})


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copy of all weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@dataclasses.dataclass(frozen=True)
class Failing(DSM):
    """DSM whose loss or gradient is spoiled from a training position on."""

    at: float = 0.5  # progress
    spoil: str = "loss"  # loss: NaN; gradient: finite loss with an infinite gradient

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        loss = super().loss(term, batch, models, progress)
        if progress < self.at:
            return loss
        if self.spoil == "loss":
            return loss * float("nan")
        zero = loss - loss.detach()
        return loss.detach() + zero.abs().sqrt()
