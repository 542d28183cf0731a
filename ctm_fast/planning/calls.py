"""How often a training step evaluates its networks, per image and on average over a run."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..losses import CTM
from ..losses.ctm_gan import CTMGAN
from ..timesteps import TrajectoryLevels
from .probe import probed


@dataclass(frozen=True)
class Calls:
    """Evaluations per image of the batch and step: means, in which images that are spared count.

    A call with gradient is one forward and the backward that follows it.
    """

    teacher: float = 0.0  # of the teacher, without gradient
    trained: float = 0.0  # of the student, with gradient to its weights
    through: float = 0.0  # of student, target or teacher, with gradient to its input alone
    frozen: float = 0.0  # of student or target, without gradient
    tangents: float = 0.0  # passes in forward mode: value and derivative along a direction
    features: float = 0.0  # of the teacher's encoder, without gradient
    features_through: float = 0.0  # of the teacher's encoder, with gradient to its input
    distances: float = 0.0  # estimates that are compared
    judged: float = 0.0  # images that a discriminator sees, with gradient to its heads
    judged_through: float = 0.0  # estimates that it sees, with gradient to them

    def scaled(self, factor: float) -> Calls:
        """All numbers times `factor`."""
        return Calls(**{k: factor * v for k, v in dataclasses.asdict(self).items()})

    def plus(self, other: Calls) -> Calls:
        """The sums."""
        added = dataclasses.asdict(other)
        return Calls(**{k: v + added[k] for k, v in dataclasses.asdict(self).items()})


def calls_of(objective: Any, steps: int = 1) -> Calls:
    """Evaluations of a step of an objective, on average over a run of `steps` steps.

    For CTM from the probabilities of its levels, exactly; for all others counted in a few steps of
    a network of one layer at positions spread over the run, so to about 1 %.
    """
    if isinstance(objective, CTMGAN):
        fields = {f.name: getattr(objective, f.name) for f in dataclasses.fields(CTM)}
        return _with_gan(objective, calls_of(CTM(**fields)), steps)
    if isinstance(objective, CTM) and objective.pairs == 1:
        return _of_ctm(objective)
    return Calls(**probed(objective))


def mean_teacher_steps(objective: Any) -> float | None:
    """E[n], the expected number of teacher steps of a CTM objective; None for others."""
    if not isinstance(objective, CTM):
        return None
    return objective.levels.mean_count(objective.num_scales)


def _of_ctm(objective: CTM) -> Calls:
    levels, scales = objective.levels, objective.num_scales
    n = levels.mean_count(scales)
    apart = _share_apart(levels, scales)  # u above s
    _, u, s = levels.marginal_probabilities(scales)
    s_moves, u_moves = 1 - float(s[-1]), 1 - float(u[-1])
    found = {"trained": 0.0, "through": 0.0, "frozen": 0.0, "teacher": 0.0, "distances": 1.0}
    solve = 2 * n if objective.teacher_solver == "heun" else n + 1
    if objective.self_teacher is None:
        found["teacher"] = solve
    else:
        found["frozen"] += {"heun_denoiser": 2 * n, "jump": 1.0}.get(objective.self_teacher, n)
    found["frozen"] += u_moves if objective.target_inner == "none" else apart + s_moves
    carried = u_moves if objective.target_matching else s_moves
    if objective.estimate_inner == "student":
        found["trained"] += 1
    else:
        # Without gradient at s every image passes through the network that carries it.
        found["frozen"] += 1
        carried = 1.0
    found["through" if objective.estimate_outer == "target" else "trained"] += carried
    if "dsm" in objective.terms:
        found["trained"] += objective.denoising_frequency
    if hasattr(objective.compared_by, "features"):
        found |= {"features": 1.0, "features_through": 1.0}
    return Calls(**found)


def _with_gan(objective: CTMGAN, plain: Calls, steps: int) -> Calls:
    """The mean over the steps before the term begins, then the student's and the heads'."""
    gan = objective.gan
    before = min(gan.start, steps) / steps
    students = (1 - before) / gan.period
    _, u, s = objective.levels.marginal_probabilities(objective.num_scales)
    carried = 1 - float((u if objective.target_matching else s)[-1])
    fakes = objective.pairs
    if gan.fake == "direct":
        carried, fakes = 0.0, 1
    # The terms are differentiated one after the other, so the estimate is made again.
    adversarial = Calls(trained=1.0, through=carried, judged_through=1.0).scaled(fakes)
    heads = Calls(frozen=1.0 + carried, judged=1.0).scaled(fakes).plus(Calls(judged=1.0))
    return (
        plain.scaled(before + students)
        .plus(adversarial.scaled(students))
        .plus(heads.scaled(1 - before - students))
    )


def _share_apart(levels: TrajectoryLevels, scales: int) -> float:
    """P(s below u)."""
    together = 0.0
    for n, p in enumerate(levels.count_probabilities(scales).tolist(), start=1):
        joint = levels.joint_probabilities(scales, n)
        together += p * float(joint.diagonal(n).sum())
    return 1 - together
