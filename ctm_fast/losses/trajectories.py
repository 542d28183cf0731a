"""Who moves images along trajectories: the teacher's solve, self-teachers, and single jumps.

Kim et al. 2024 (CTM), arXiv:2310.02279.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..solvers.heun import heun_solve
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


def jump_moved(
    model: Denoiser, x: Tensor, sigma: Tensor, sigma_to: Tensor, labels: Tensor | None
) -> Tensor:
    """G(x, sigma, sigma_to), calling the network only for images that move.

    Where sigma_to equals sigma the jump is the identity exactly, for every outer
    parametrisation. On the published grids that is a third to a half of the jumps to sigma_min.
    On a GPU all rows are computed, since shapes that depend on data would synchronise.
    """
    if x.device.type != "cpu":
        return model.jump(x, sigma, sigma_to, labels)
    rows = (sigma != sigma_to).nonzero().flatten()
    if len(rows) == len(x):
        return model.jump(x, sigma, sigma_to, labels)
    if len(rows) == 0:
        return x
    kept = None if labels is None else labels[rows]
    moved = model.jump(x[rows], sigma[rows], sigma_to[rows], kept)
    return x.index_copy(0, rows, moved)


Steps = int | Tensor


def solve_with_teacher(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """x after n Heun steps of the teacher from index `start`. Source: CTM, Section 3.2."""
    return heun_solve(teacher_of(models), x, sigmas, start, n, labels)


def _heun_denoiser(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """The student's own denoiser g(x, t, t) in the Heun solver. Source: CTM, Section 5.2."""
    return heun_solve(models.student, x, sigmas, start, n, labels)


def _jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """One jump of the average from t to u. Source: sony/ctm, `self_learn`."""
    return target_of(models).jump(x, sigmas[start], sigmas[start + n], labels)


def _iterative_jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """n jumps of the average through the grid. Source: sony/ctm, `self_learn_iterative`."""
    counts = torch.as_tensor(n, device=x.device).expand(len(x))
    for step in range(int(counts.max())):
        index = start + torch.minimum(torch.full_like(start, step), counts)
        index_to = start + torch.minimum(torch.full_like(start, step + 1), counts)
        x = jump_moved(target_of(models), x, sigmas[index], sigmas[index_to], labels)
    return x


SELF_TEACHERS: dict[str, Callable[..., Tensor]] = {
    "heun_denoiser": _heun_denoiser,
    "jump": _jump,
    "iterative_jump": _iterative_jump,
}
