"""CTM with its adversarial term (CTM + DSM + GAN). Kim et al. 2024 (ICLR), arXiv:2310.02279."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..denoiser import Denoiser
from ..models.diff_augment import DRAWS
from ..models.discriminator import discriminator
from ..models.feature_nets import Features
from .ctm import CTM
from .dsm import noised
from .gan import GAN, discriminator_loss, generator_loss, unmoved
from .objective import Balance, Batch, Models
from .pairs import flattened, per_image


@dataclass(frozen=True)
class CTMGAN(CTM):
    """CTM whose estimate also has to pass for an image of the data.

    Steps alternate: the student's, with the terms "ctm", "dsm" and "gan", in which the
    discriminator stays as it is; and the discriminator's, with the term of that name alone, for
    which the student runs without gradient and the teacher solves nothing. Real are the images of
    the batch, fake is the estimate x_est.

    A warm-up is `gan.start`, or a run of CTM whose model the student begins with.

    Heads with BatchNorm normalise by the images that they see at once: a microbatch, of one
    process, at least two. `microbatch` and the number of processes then change results.

    Raises:
        ValueError: for an unknown choice, or backbones that this training cannot have.
    """

    capturable: ClassVar[bool] = False  # which terms there are depends on the step

    gan: GAN = field(default_factory=GAN)  # the discriminator and when it is trained

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gan.encoder is not None and self.self_teacher:
            raise ValueError(
                f"self_teacher={self.self_teacher!r} has no teacher whose encoder the "
                "discriminator could look through; gan.backbones may be Timm(file=..., "
                "sha256=...), or RandomFeatures(allow_random=True) for tests"
            )

    @property
    def terms(self) -> tuple[str, ...]:
        """CTM's, then the generator's and the discriminator's."""
        return (*super().terms, "gan", "discriminator")

    @property
    def balance(self) -> dict[str, Balance]:
        """DSM and the generator's term are balanced against the consistency term."""
        if not self.gan.adaptive:
            return super().balance
        factors = {"reference_factor": self.consistency_weight, "factor": self.gan.weight}
        return {**super().balance, "gan": Balance(self.gan.low, self.gan.high, **factors)}

    @property
    def companion_lr(self) -> float:
        """Learning rate of the discriminator."""
        return self.gan.lr

    @property
    def companion_betas(self) -> tuple[float, float]:
        """Averaging factors of the discriminator's optimizer."""
        return self.gan.betas

    def companion(self, models: Models) -> nn.Module:
        """The discriminator.

        Raises:
            ValueError: without a teacher where its encoder is a backbone.
        """
        encoder, sizes = self.gan.encoder, None
        if encoder is not None:
            sizes = encoder.maps(_encoded(models))
        return discriminator(self.gan.backbones, channels_of_teacher=sizes, seed=self.gan.seed)

    def trains(self, step: int) -> frozenset[str]:
        """What the update after `step` finished steps moves."""
        return frozenset({"student" if self.gan.generates(step) else "companion"})

    def active(self, term: str, batch: Batch) -> bool:
        """Whether the term takes part in this step; without a step in the batch all do."""
        step = batch.draw.get("step")
        if step is None:
            return super().active(term, batch)
        if term == "discriminator" or not self.gan.generates(step):
            return term == "discriminator" and not self.gan.generates(step)
        return self.gan.judges(step) if term == "gan" else super().active(term, batch)

    def order(self, batch: Batch) -> Tensor | None:
        """As CTM's before the adversarial term begins.

        Later microbatches have to be alike, as BatchNorm takes statistics of each.
        """
        step = batch.draw.get("step")
        return super().order(batch) if step is not None and step < self.gan.start else None

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """CTM's, then uniform numbers (batch, backbones, DRAWS) of the augmentation."""
        draw = super().draw(batch_size, shape, generator, progress)
        size = (batch_size, len(self.gan.backbones), DRAWS)
        names = ("augment_fake", "augment_real")[: 1 + self.gan.different_augment]
        for name in names if self.gan.augment else ():
            draw[name] = torch.rand(size, generator=generator, device=generator.device)
        return draw

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """What the step needs: CTM's target images, or fakes for the discriminator."""
        step, draw = batch.draw.get("step"), batch.draw
        if step is None or self.gan.generates(step):
            super().prepare(batch, models, progress)
        if step is None or not self.gan.generates(step):
            sigmas = self.grid(models.student, batch.images.device)
            draw["x_t"] = noised(batch.images, sigmas[draw["t_index"]], draw["noise"])
            flat = flattened(batch, self.pairs)
            t, u, s = (sigmas[flat.draw[f"{name}_index"]] for name in "tus")
            draw["t"] = per_image(t, self.pairs)
            draw["s"] = per_image(u if self.target_matching else s, self.pairs)
            fakes = self.fakes(batch, models)
            draw["fakes"] = per_image(fakes, len(fakes) // len(batch))

    def fakes(self, batch: Batch, models: Models) -> Tensor:
        """Images of a prepared batch that the discriminator is to tell from real ones.

        (batch, C, H, W), or with `pairs` estimates per image as many rows for each.
        """
        if self.gan.fake == "estimate":
            return self.estimate(flattened(batch, self.pairs), models)
        sigmas = self.grid(models.student, batch.images.device)
        t = sigmas[batch.draw["t_index"]]
        low = sigmas[-1].expand_as(t)
        return models.student.jump(batch.draw["x_t"], t, low, batch.labels)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Per-image loss of one of the terms, (batch,); that of "gan" may be negative.

        Raises:
            ValueError: for another term, or without the discriminator.
        """
        if term == "gan":
            return self._generator(self.fakes(batch, models), batch, models)
        if term != "discriminator":
            return super().loss(term, batch, models, progress)
        judge, draw = _judge(models), batch.draw
        fakes = draw["fakes"] if draw["fakes"].ndim == 4 else draw["fakes"].flatten(0, 1)
        uniforms = draw.get("augment_real", draw.get("augment_fake"))
        features = self._features(models, batch.labels)
        real = judge(batch.images, uniforms, features)
        return discriminator_loss(real, self._of_fakes(judge, fakes, batch, models))

    def beside(self, estimate: Tensor, batch: Batch, models: Models) -> dict[str, Tensor]:
        """The generator's term where `losses` has made the estimate."""
        if not self.active("gan", batch):
            return {}
        fakes = estimate if self.gan.fake == "estimate" else self.fakes(batch, models)
        return {"gan": self._generator(fakes, batch, models)}

    def _generator(self, fakes: Tensor, batch: Batch, models: Models) -> Tensor:
        judge = _judge(models)

        def frozen(*args: Any) -> Tensor:
            logits: Tensor = unmoved(judge, *args)
            return logits

        return self.gan.weight * generator_loss(self._of_fakes(frozen, fakes, batch, models))

    def _of_fakes(
        self, judge: Callable[..., Tensor], fakes: Tensor, batch: Batch, models: Models
    ) -> Tensor:
        """Logits (batch, K), with several fakes per image those of all of them."""
        each, labels = len(fakes) // len(batch), batch.labels
        uniforms = batch.draw.get("augment_fake")
        if each > 1:
            uniforms = None if uniforms is None else uniforms.repeat_interleave(each, 0)
            if labels is not None and len(labels) == len(batch):
                labels = labels.repeat_interleave(each, 0)
        logits = judge(fakes, uniforms, self._features(models, labels))
        return per_image(logits, each).flatten(1)

    def _features(self, models: Models, labels: Tensor | None) -> Features | None:
        """The teacher's encoder at the low noise level that its backbone names."""
        encoder = self.gan.encoder
        return None if encoder is None else encoder.features(_encoded(models), labels)


def _encoded(models: Models) -> Denoiser:
    if models.teacher is None:
        raise ValueError(
            "the discriminator looks through the teacher's encoder; give a teacher, or "
            "gan.backbones=(Timm(file=..., sha256=...),)"
        )
    return models.teacher


def _judge(models: Models) -> nn.Module:
    if models.companion is None:
        raise ValueError("CTMGAN needs its discriminator; see `CTMGAN.companion`")
    return models.companion
