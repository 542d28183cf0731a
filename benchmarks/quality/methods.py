"""The methods that are compared: for each, one or two objectives and how its models are sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ctm_fast.losses import CTM, CTMGAN, GAN, L2, MeanFlow, PseudoHuber
from ctm_fast.losses.linear_path import PUBLISHED_TIMES
from ctm_fast.models import TeacherEncoder
from ctm_fast.presets import Preset, preset_named
from ctm_fast.trainer import TrainConfig

WORLDS = ("mixture", "digits")


@dataclass(frozen=True)
class Stage:
    """One training run.

    Attributes:
        objective: what is trained.
        train: options; steps and curricula follow the budget.
        share: of the method's budget of network evaluations, in (0, 1].
        warmup: share of the steps before an adversarial term begins.
    """

    objective: Any
    train: TrainConfig
    share: float = 1.0
    warmup: float = 0.0

    def objective_for(self, steps: int) -> Any:
        """The objective of a run of that many steps."""
        if not isinstance(self.objective, CTMGAN):
            return self.objective
        gan = dataclasses.replace(self.objective.gan, start=round(self.warmup * steps))
        return dataclasses.replace(self.objective, gan=gan)


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes:
        name: of the row.
        about: what distinguishes it.
        stages: made for a world, one after the other; the last one's model is measured.
        worlds: where it can be trained.
    """

    name: str
    about: str
    stages: Callable[[str], tuple[Stage, ...]]
    worlds: tuple[str, ...] = WORLDS


def adapted(preset: Preset, world: str, share: float = 1.0, **changes: Any) -> Stage:
    """A digits preset as it is for digits; for points all distances are squares.

    In few dimensions a norm, or MeanFlow's adaptive weight, asks for something like the median of
    its targets, which is no point of the map.
    """
    objective, train = preset.objective(), preset.train()
    if world == "mixture" and hasattr(objective, "distance"):
        changes = {"distance": L2(), **changes}
        if isinstance(objective, CTM):
            changes["distance"] = PseudoHuber(0.03)
    if world == "mixture" and isinstance(objective, MeanFlow):
        changes = {"power": 0.0, **changes}
    return Stage(dataclasses.replace(objective, **changes), train, share)


def _one(name: str, **changes: Any) -> Callable[[str], tuple[Stage, ...]]:
    return lambda world: (adapted(preset_named(name), world, **changes),)


def _tcm(world: str) -> tuple[Stage, ...]:
    first = adapted(preset_named("tcm-digits-stage1"), world, 0.5)
    return first, adapted(preset_named("tcm-digits-stage2"), world, 0.5)


def _first_stage(share: float) -> Callable[[str], tuple[Stage, ...]]:
    return lambda world: (adapted(preset_named("tcm-digits-stage1"), world, share),)


def _wide_meanflow(world: str) -> tuple[Stage, ...]:
    # The CIFAR-10 times are made for one call: destinations between the ends are rare.
    return (adapted(preset_named("meanflow-digits"), world, times=PUBLISHED_TIMES["imagenet"]),)


def _gan(world: str) -> tuple[Stage, ...]:
    ctm, train = preset_named("ctm-digits").objective(), preset_named("ctm-digits").train()
    shared = {field.name: getattr(ctm, field.name) for field in dataclasses.fields(ctm)}
    gan = GAN(backbones=(TeacherEncoder(sigma=0.01, width=8),))
    return (Stage(CTMGAN(**shared, gan=gan), train, warmup=1 / 3),)


METHODS = {
    method.name: method
    for method in (
        Method("CTM", "trajectory consistency and denoising", _one("ctm-digits")),
        Method("CTM alone", "without denoising", _one("ctm-digits", denoising_weight=0.0)),
        Method("CTM + GAN", "heads on the teacher's features from a third on", _gan, ("digits",)),
        Method("CD", "consistency distillation, Heun teacher", _one("cd-digits")),
        Method("CT", "consistency training, no teacher solve", _one("ct-digits")),
        Method("iCT", "discretised log-normal, doubling curriculum", _one("ict-digits")),
        Method("ECT", "continuous levels, shrinking gap", _one("ect-digits")),
        Method("SCT", "ECT with targets from a pool of 64", _one("sct-digits")),
        Method("TCM stage 1", "the first half of TCM's budget", _first_stage(0.5)),
        Method("TCM stage 1, longer", "stage 1 for the whole budget", _first_stage(1.0)),
        Method("TCM", "both stages", _tcm),
        Method("sCT", "continuous time, from data", _one("scm-ct-digits")),
        Method("sCD", "continuous time, from the teacher", _one("scm-cd-digits")),
        Method("MeanFlow", "average velocities, from data", _one("meanflow-digits")),
        Method("MeanFlow, wide", "with the times of its ImageNet runs", _wide_meanflow),
        Method("AYF", "flow maps, from the teacher", _one("ayf-digits")),
    )
}
"""By name, in the order of the table."""


NOISE_SIZES = (4, 16, 64)  # images of SCT's sets whose gradient noise is compared


def noise_arms(world: str) -> dict[str, Any]:
    """Objectives whose gradient noise is compared: ECT, and SCT with sets of several sizes.

    All with a squared distance and ECT's gap, so that only the target differs. Points take the
    sets from the batch; digits, of which a batch has few of one class, from a pool.
    """
    ect = preset_named("ect-digits").objective()
    reference = "pool" if world == "digits" else "minibatch"
    options: dict[str, Any] = {"distance": L2(), "gap": ect.gap, "reference": reference}
    sct = dataclasses.replace(preset_named("sct-digits").objective(), **options)
    arms: dict[str, Any] = {"ECT": dataclasses.replace(ect, distance=L2())}
    for size in NOISE_SIZES:
        arms[noise_name(size)] = dataclasses.replace(sct, references=size)
    return arms


def noise_name(size: int) -> str:
    """Name of the arm with sets of `size` images."""
    return f"SCT, {size} images"
