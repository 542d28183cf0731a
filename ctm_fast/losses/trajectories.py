"""Who moves images along trajectories: the teacher's solve, self-teachers, and single jumps.

Kim et al. 2024 (CTM), arXiv:2310.02279.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..inference.teacher import Pool, TeacherSolve
from ..solvers.heun import heun_solve
from .moves import jump_rows, moving_rows, on_device
from .objective import Models

NetworkOf = Callable[[Models], Denoiser]


def student_of(models: Models) -> Denoiser:
    """The trained network."""
    return models.student


def target_of(models: Models) -> Denoiser:
    """The averaged network.

    Raises:
        ValueError: if there is none.
    """
    if models.target is None:
        raise ValueError("this CTM objective needs the averaged target network; none was given")
    return models.target


def teacher_of(models: Models) -> Denoiser:
    """The pretrained diffusion model.

    Raises:
        ValueError: if there is none.
    """
    if models.teacher is None:
        raise ValueError(
            "CTM distillation needs a teacher; give one, or train without one by "
            f"self_teacher in {sorted(SELF_TEACHERS)}"
        )
    return models.teacher


# Who computes a jump. Official names: model, target_model_sg, and `no` for "stay at u".
NETWORKS: dict[str, NetworkOf] = {"student": student_of, "target": target_of}


Steps = int | Tensor
# Models are weak keys: what their teacher's solve keeps lives as long as they do.
_solves: WeakKeyDictionary[Models, dict[Any, TeacherSolve]] = WeakKeyDictionary()


def solve_with_teacher(
    models: Models,
    x: Tensor,
    sigmas: Tensor,
    start: Tensor,
    n: Steps,
    labels: Tensor | None,
    *,
    slots: int | None = None,
    solver: str = "heun",
) -> Tensor:
    """x after n steps of the teacher from index `start`. Source: CTM, Section 3.2.

    With `sigmas`, `start` and `n` on the CPU nothing waits for x's device. For n (points, batch)
    the result is (points, *shape of x). `slots` and `solver` as in `TeacherSolve`.
    """
    teacher = teacher_of(models)
    if not hasattr(teacher, "raw") or not hasattr(teacher, "precond"):
        return heun_solve(teacher, x, sigmas, start, n, labels)
    key = (tuple(sigmas.tolist()), slots, solver, x.device)
    solves = _solves.setdefault(models, {})
    if key not in solves:
        solves[key] = TeacherSolve(
            teacher, sigmas, slots=slots, pool=_pool(x.device), solver=solver
        )
    if isinstance(n, Tensor) and n.ndim == 2:
        return solves[key].trajectory(x, start, n, labels)
    return solves[key](x, start, n, labels)


def forget_solves(models: Models) -> None:
    """Free what the solves of the models' teacher keep: tables, CUDA graphs and their memory."""
    _solves.pop(models, None)


def _pool(device: torch.device) -> Pool | None:
    """CUDA graphs of a teacher's steps; a teacher that cannot be captured runs without."""
    if device.type != "cuda":
        return None
    from ..inference.graphs import GraphPool

    return GraphPool(fallback="eager")


def _heun_denoiser(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """The student's own denoiser g(x, t, t) in the Heun solver. Source: CTM, Section 5.2."""
    return heun_solve(models.student, x, sigmas, start, n, labels)


def _jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """One jump of the average from t to u. Source: sony/ctm, `self_learn`."""
    at, to = _levels(sigmas, start, x), _levels(sigmas, start + n, x)
    return target_of(models).jump(x, at, to, labels)


def _iterative_jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """n jumps of the average through the grid. Source: sony/ctm, `self_learn_iterative`."""
    start = start.cpu()
    counts = torch.as_tensor(n).cpu().expand(len(x))
    for step in range(max(counts.tolist(), default=0)):
        index, index_to = start + counts.clamp(max=step), start + counts.clamp(max=step + 1)
        at, to = _levels(sigmas, index, x), _levels(sigmas, index_to, x)
        x = jump_rows(target_of(models), x, at, to, labels, moving_rows(index, index_to))
    return x


def _levels(sigmas: Tensor, index: Tensor, x: Tensor) -> Tensor:
    """Noise levels at grid indices, (batch,) on x's device."""
    return on_device(sigmas.cpu()[index.cpu()], x.device)


SELF_TEACHERS: dict[str, Callable[..., Tensor]] = {
    "heun_denoiser": _heun_denoiser,
    "jump": _jump,
    "iterative_jump": _iterative_jump,
}
