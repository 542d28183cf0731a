"""The network that a training run begins with: random weights, or those of a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import models
from ..data import ImageDataset
from ..denoiser import Denoiser
from ..inner import CM, Inner, LinearFlow
from ..losses import CTM, DSM, OBJECTIVES
from ..noise_embeddings import FlowTime
from ..precond import EDM, Preconditioning
from ..sigmas import SIGMA_MAX, SIGMA_MIN


def kind_of(objective: Any) -> str:
    """Kind of `Denoiser` that an objective trains."""
    return str(
        getattr(objective, "student_kind", "denoiser" if type(objective) is DSM else "trajectory")
    )


def inner_of(objective: Any, sigma_data: float, sigma_min: float) -> Inner:
    """Inner scalings of a student, as published for the objective.

    CM and iCT: the identity at sigma_min. MeanFlow, from random weights: the network is a velocity
    of the linear path. All others: EDM's, of which a diffusion model's weights know how to live.
    """
    name = OBJECTIVES.name_of(objective)
    if name in ("cm", "ict"):
        return CM(sigma_data, sigma_min)
    return LinearFlow(sigma_data) if name == "meanflow" else EDM(sigma_data)


def student_for(
    objective: Any,
    dataset: ImageDataset,
    teacher: Denoiser | None,
    *,
    student: Denoiser | None = None,
    net: str = "digits",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    sigma_range: tuple[float, float] | None = None,
    sigma_data: float | None = None,
) -> Denoiser:
    """Network for an objective: an earlier run's, a copy of the teacher's, or random weights.

    Args:
        objective: one of OBJECTIVES.
        dataset: gives shape, classes and sigma_data of a network with random weights.
        teacher: model whose weights the student begins with, or None. Its scalings become the
            student's, unless `inner_of` has others.
        student: model of an earlier run, which goes on as it is, or None.
        net: preset of a network with random weights, see `ctm_fast.models`.
        options: its configuration. Of a teacher's network only dropout can be changed; its
            label_dim has to be the teacher's.
        seed: of random weights.
        sigma_range: smallest and largest noise level, within the teacher's; None: the teacher's, or
            0.002 and 80.
        sigma_data: of a network with random weights; None: measured on the data.

    Raises:
        ValueError: for a teacher that the objective does not take, or one that it lacks, or a range
            that the teacher does not know.
    """
    options, kind = dict(options or {}), kind_of(objective)
    name = OBJECTIVES.name_of(objective)
    for role, model in (("teacher", teacher), ("student", student)):
        _check_classes(role, model, options)
    if teacher is None and "teacher" in objective.needs:
        raise ValueError(f"objective:{name} needs --teacher MODEL.safetensors{_or_not(name)}")
    if student is not None:
        return _continued(student, kind, name, sigma_range)
    if teacher is None:
        levels = sigma_range or (SIGMA_MIN, SIGMA_MAX)
        inner = inner_of(objective, sigma_data or dataset.sigma_data, levels[0])
        return new_denoiser(
            net, dataset, seed, kind=kind, inner=inner, sigma_range=levels, **options
        )
    if isinstance(objective, DSM):
        raise ValueError("objective:dsm trains a teacher and takes none; leave --teacher out")
    low, high = sigma_range or (teacher.sigma_min, teacher.sigma_max)
    if low < teacher.sigma_min or high > teacher.sigma_max:
        known = [teacher.sigma_min, teacher.sigma_max]
        raise ValueError(f"the teacher knows noise levels in {known}, not in {[low, high]}")
    if kind == "trajectory":
        student = models.student_from(teacher, seed, exact=not isinstance(objective, CTM))
    else:
        own = inner_of(objective, teacher.sigma_data, low) if name in ("cm", "ict") else None
        dropout = options.get("dropout")
        student = models.consistency_from(teacher, kind=kind, inner=own, dropout=dropout)
    student.sigma_min, student.sigma_max = low, high
    return student


def _check_classes(role: str, model: Denoiser | None, options: Mapping[str, Any]) -> None:
    wanted = options.get("label_dim")
    if model is not None and wanted is not None and model.label_dim != wanted:
        raise ValueError(
            f"the {role} has {model.label_dim} classes, not label_dim={wanted}; give another "
            f"--{role}, or --net-options without label_dim"
        )


def _continued(
    student: Denoiser, kind: str, name: str, sigma_range: tuple[float, float] | None
) -> Denoiser:
    """The model of an earlier run, if the objective trains such models."""
    if student.kind != kind:
        raise ValueError(
            f"objective:{name} trains a model of kind {kind!r}, but --student is a {student.kind!r}"
        )
    if sigma_range is not None and sigma_range != (student.sigma_min, student.sigma_max):
        known = [student.sigma_min, student.sigma_max]
        raise ValueError(f"--student was trained for levels in {known}, not {list(sigma_range)}")
    return student


def _or_not(name: str) -> str:
    ways = {
        "ctm": ", or --objective.self-teacher heun_denoiser to train without one",
        "cm": ", or --objective.teacher-solver None to train without one",
        "scm": ", or --objective.no-distil to train without one",
        "tcm": ", the model of its first stage (objective:ect)",
    }
    return ways.get(name, "")


def new_denoiser(
    name: str,
    dataset: ImageDataset,
    seed: int,
    destination: bool = False,
    sigma_range: tuple[float, float] = (SIGMA_MIN, SIGMA_MAX),
    *,
    kind: str | None = None,
    inner: Inner | None = None,
    **overrides: object,
) -> Denoiser:
    """Denoiser with random weights for a data set: its shape, classes and measured sigma_data.

    Args:
        name: preset of the network.
        dataset: what it will be trained on.
        seed: of the weights.
        destination: whether it can jump anywhere; so it can if `kind` is "trajectory".
        sigma_range: smallest and largest noise level.
        kind: of the `Denoiser`; by default what the network can do.
        inner: inner scalings; EDM's by default.
        overrides: of the network's configuration, for example label_dim=0 to ignore the classes.

    Raises:
        ValueError: for an unknown preset or configuration.
    """
    channels, _, resolution = dataset.shape
    own: dict[str, Any] = dict(
        img_channels=channels,
        img_resolution=resolution,
        label_dim=dataset.label_dim,
        destination=destination or kind == "trajectory",
    )
    net = models.build(name, seed=seed, **{**own, **overrides})
    # The published ADM networks are told 250 ln(sigma), the others ln(sigma) / 4.
    embedding: Any = "log_250" if isinstance(net, models.ADMUNet) else "quarter_log"
    if isinstance(inner, LinearFlow):
        embedding = FlowTime()
    precond = Preconditioning(inner or EDM(dataset.sigma_data), noise_embedding=embedding)
    low, high = sigma_range
    return Denoiser(net, precond, kind=kind, sigma_min=low, sigma_max=high)
