"""The adversarial term of CTM: hinge losses per image, when it is trained, and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import relu

from ..models.feature_nets import AnyBackbone, TeacherEncoder
from ..registry import choice

FAKES = ("estimate", "direct")


def generator_loss(logits: Tensor) -> Tensor:
    """-D(fake), mean over the logits of an image: (batch,); `logits` is (batch, K)."""
    return -logits.flatten(1).mean(1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(fake)), means over the logits of an image: (batch,).

    Source: Lim & Ye 2017, arXiv:1705.02894 (hinge loss), which CTM's published code uses where the
    paper writes the logarithmic form.
    """
    return relu(1 - real).flatten(1).mean(1) + relu(1 + fake).flatten(1).mean(1)


def unmoved(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """module(*args, **kwargs) with gradients to the arguments only.

    Neither weights nor buffers of the module see this call: a module in training mode normalises by
    the batch as usual, but keeps its running statistics and power iterations.
    """
    state = {name: weight.detach() for name, weight in module.named_parameters()}
    state |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return functional_call(module, state, args, kwargs)


@dataclass(frozen=True)
class GAN:
    """How the discriminator is built and trained. Defaults are those of the published runs.

    In their place of ImageNet networks the offline default looks at features of the frozen teacher.

    Source: Kim et al. 2024 (CTM), Section 3.3 and its published code.

    Raises:
        ValueError: for a value outside the range stated beside it.
    """

    # Frozen networks whose features the heads see; each has its own heads and projection.
    backbones: tuple[AnyBackbone, ...] = choice(
        "ctm_fast.models.feature_nets:BACKBONES", lambda: (TeacherEncoder(),)
    )
    start: int = 0  # steps without the term; every one of them trains the student
    period: int = 2  # then one step in so many trains the student, the others the heads; >= 2
    weight: float = 1.0  # factor of the term, > 0
    adaptive: bool = True  # balance it against consistency by gradient norms
    low: float = 0.01  # smallest adaptive weight, >= 0
    high: float = 10.0  # largest adaptive weight, >= low
    lr: float = 2e-3  # learning rate of the heads, on the student's schedule; > 0
    betas: tuple[float, float] = (0.5, 0.9)  # averaging factors of their optimizer, in [0, 1)
    fake: str = "estimate"  # what is judged: CTM's estimate, or the direct jump to sigma_min
    augment: bool = True  # DiffAugment
    different_augment: bool = True  # own random numbers for real and fake, or the same
    seed: int = 0  # of projections and heads

    def __post_init__(self) -> None:
        if not self.backbones:
            raise ValueError("backbones is empty; give at least one, for example TeacherEncoder()")
        if sum(isinstance(b, TeacherEncoder) for b in self.backbones) > 1:
            raise ValueError("backbones may hold one TeacherEncoder, not several")
        if self.start < 0:
            raise ValueError(f"start must be at least 0, got {self.start}")
        if self.period < 2:
            raise ValueError(f"period must be at least 2, got {self.period}")
        if self.fake not in FAKES:
            raise ValueError(f"unknown fake {self.fake!r}; choose from {sorted(FAKES)}")
        if not (self.weight > 0 and self.lr > 0):
            raise ValueError(f"need weight > 0 and lr > 0, got weight={self.weight}, lr={self.lr}")
        if not 0 <= self.low <= self.high:
            raise ValueError(f"need 0 <= low <= high, got low={self.low}, high={self.high}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be two numbers in [0, 1), got {self.betas}")

    def generates(self, step: int) -> bool:
        """Whether the update after `step` finished steps is the student's, else the heads'."""
        return step < self.start or step % self.period == 0

    def judges(self, step: int) -> bool:
        """Whether that update of the student has the adversarial term."""
        return step >= self.start and self.generates(step)

    @property
    def encoder(self) -> TeacherEncoder | None:
        """The backbone that is the teacher, if there is one."""
        return next((b for b in self.backbones if isinstance(b, TeacherEncoder)), None)
