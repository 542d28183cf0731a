"""Consistency trajectory models (CTM). Kim et al. 2024 (ICLR), arXiv:2310.02279.

The five choices: levels t >= u >= s on a Karras grid; the pair x_t, x_u lies on one trajectory
of the teacher; the student jumps t -> s, a copy without gradient jumps u -> s; both ends are
carried to sigma_min by the frozen average and compared there; weight uniform by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..densities import AnyDensity, HalfLogNormal
from ..registry import choice
from ..sigmas import RHO, karras_sigmas
from ..solvers.heun import heun_solve
from ..timesteps import TrajectoryLevels
from .distances import AnyDistance, Distance, PseudoHuber, TeacherFeatures
from .dsm import denoising_loss, noised
from .objective import Balance, Batch, Models
from .weightings import weighting

NetworkOf = Callable[[Models], Denoiser]


def _student(models: Models) -> Denoiser:
    return models.student


def _target(models: Models) -> Denoiser:
    if models.target is None:
        raise ValueError("this CTM objective needs the averaged target network; none was given")
    return models.target


def _teacher(models: Models) -> Denoiser:
    if models.teacher is None:
        raise ValueError(
            "CTM distillation needs a teacher; give one, or train without one by "
            f"self_teacher in {sorted(SELF_TEACHERS)}"
        )
    return models.teacher


_DISTANCES = "ctm_fast.losses.distances:DISTANCES"
_DENSITIES = "ctm_fast.densities:DENSITIES"

# Who computes a jump. Official names: model, target_model_sg, and `no` for "stay at u".
NETWORKS: dict[str, NetworkOf] = {"student": _student, "target": _target}


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


@dataclass(frozen=True)
class CTM:
    """Soft trajectory consistency with denoising score matching (CTM + DSM).

    Defaults are those of the published CIFAR-10 runs, except the distance: LPIPS needs external
    weights, so the default is `TeacherFeatures`, and `PseudoHuber` without a teacher.

    Raises:
        ValueError: for an unknown choice, or for an estimate through which no gradient flows.
    """

    num_scales: int = 18  # grid size N; 18 CIFAR-10, 40 ImageNet-64
    rho: float = RHO  # exponent of the Karras grid
    levels: TrajectoryLevels = field(default_factory=TrajectoryLevels)  # how n, t, u, s are drawn
    distance: AnyDistance | None = choice(_DISTANCES, lambda: None)  # None: see `compared_by`
    weighting: str = "uniform"  # weight of the consistency term, see `losses.weightings`
    consistency_weight: float = 1.0  # factor of the consistency term, >= 0
    denoising_weight: float = 1.0  # factor of the DSM term; 0 switches it off
    adaptive: bool = True  # balance DSM against consistency by gradient norms (Section 3.3)
    adaptive_cap: float = 1e4  # largest adaptive weight
    density: AnyDensity = choice(_DENSITIES, HalfLogNormal)  # noise levels of the DSM term
    estimate_outer: str = "target"  # who carries the estimate s -> sigma_min: target | student
    target_inner: str = "student"  # who jumps u -> s: student (official) | target (paper) | none
    target_matching: bool = False  # estimate jumps t -> u instead of t -> s
    self_teacher: str | None = None  # None: distil; else heun_denoiser | jump | iterative_jump

    def __post_init__(self) -> None:
        _check("estimate_outer", self.estimate_outer, NETWORKS)
        _check("target_inner", self.target_inner, [*NETWORKS, "none"])
        if self.self_teacher is not None:
            _check("self_teacher", self.self_teacher, SELF_TEACHERS)
        weighting(self.weighting)
        if self.consistency_weight < 0 or self.denoising_weight < 0:
            raise ValueError(
                f"weights must not be negative, got consistency_weight={self.consistency_weight}, "
                f"denoising_weight={self.denoising_weight}"
            )
        if self.balance and self.consistency_weight == 0:
            raise ValueError("consistency_weight=0 leaves nothing to balance; set adaptive=False")
        self.levels.check(self.num_scales)

    @property
    def needs(self) -> frozenset[str]:
        """The averaged target always; the teacher unless trained without one."""
        return frozenset({"target"} if self.self_teacher else {"target", "teacher"})

    @property
    def terms(self) -> tuple[str, ...]:
        """Consistency first: it is the reference of the adaptive weight."""
        return ("ctm", "dsm") if self.denoising_weight > 0 else ("ctm",)

    @property
    def balance(self) -> dict[str, Balance]:
        """DSM is balanced against the consistency term."""
        if not self.adaptive or self.denoising_weight == 0:
            return {}
        factors = {"reference_factor": self.consistency_weight, "factor": self.denoising_weight}
        return {"dsm": Balance(high=self.adaptive_cap, **factors)}

    def grid(self, model: Denoiser, device: torch.device | str = "cpu") -> Tensor:
        """Noise levels (num_scales,) float32; index 0 is sigma_max, the last is sigma_min."""
        sigmas = karras_sigmas(self.num_scales, model.sigma_min, model.sigma_max, self.rho)
        return sigmas.to(device, torch.float32)

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Indices of t, u, s, the step count n, and the noise of both terms."""
        device = generator.device
        drawn = self.levels.sample(batch_size, self.num_scales, generator)
        draw: dict[str, Any] = {
            "num_steps": drawn.num_steps,
            "t_index": drawn.t_index,
            "u_index": drawn.u_index,
            "s_index": drawn.s_index,
            "noise": torch.randn(batch_size, *shape, generator=generator, device=device),
        }
        if "dsm" in self.terms:
            noise = torch.randn(batch_size, *shape, generator=generator, device=device)
            draw["dsm_noise"] = noise
            draw["dsm_sigma"] = self.density.sample(batch_size, generator).to(noise)
        return draw

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Solve the teacher from t to u and carry the result to the target image."""
        draw, labels = batch.draw, batch.labels
        sigmas = self.grid(models.student, batch.images.device)
        t, u, s = (sigmas[draw[f"{name}_index"]] for name in "tus")
        x_t = noised(batch.images, t, draw["noise"])
        solve = SELF_TEACHERS[self.self_teacher] if self.self_teacher else _solve_with_teacher
        x_u = solve(models, x_t, sigmas, draw["t_index"], draw["num_steps"], labels)
        if self.target_inner == "none":
            at, x_s = u, x_u
        else:
            at, x_s = s, jump_moved(NETWORKS[self.target_inner](models), x_u, u, s, labels)
        low = sigmas[-1].expand_as(at)
        images = jump_moved(_target(models), x_s, at, low, labels)
        weight = weighting(self.weighting)(t, s, models.student.sigma_data)
        draw.update(t=t, s=u if self.target_matching else s, x_t=x_t, weight=weight)
        for name, kept in self.compared_by.targets(images, labels, models).items():
            draw[f"target_{name}"] = kept

    def estimate(self, batch: Batch, models: Models) -> Tensor:
        """The student's jump t -> s, carried to sigma_min with gradient: (batch, C, H, W)."""
        draw, labels = batch.draw, batch.labels
        t, s = draw["t"], draw["s"]
        x_s = models.student.jump(draw["x_t"], t, s, labels)
        low = torch.full_like(s, self.grid(models.student)[-1].item())
        return jump_moved(NETWORKS[self.estimate_outer](models), x_s, s, low, labels)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Per-image loss of "ctm" or "dsm", (batch,).

        Raises:
            ValueError: for another term.
        """
        draw, student = batch.draw, models.student
        if term == "dsm":
            loss = denoising_loss(
                student, batch.images, draw["dsm_sigma"], draw["dsm_noise"], batch.labels
            )
            return self.denoising_weight * loss
        if term != "ctm":
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        prefix = "target_"
        targets = {k.removeprefix(prefix): v for k, v in draw.items() if k.startswith(prefix)}
        estimate = self.estimate(batch, models)
        distance = self.compared_by(estimate, targets, batch.labels, models)
        return self.consistency_weight * draw["weight"] * distance

    @property
    def compared_by(self) -> Distance:
        """The distance in use: `distance`, or the default for training with or without teacher."""
        if self.distance is not None:
            return self.distance
        return PseudoHuber() if self.self_teacher else TeacherFeatures()


def _check(name: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose from {sorted(allowed)}")


Steps = int | Tensor


def _solve_with_teacher(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    return heun_solve(_teacher(models), x, sigmas, start, n, labels)


def _heun_denoiser(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """The student's own denoiser g(x, t, t) in the Heun solver. Source: CTM, Section 5.2."""
    return heun_solve(models.student, x, sigmas, start, n, labels)


def _jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """One jump of the average from t to u. Source: sony/ctm, `self_learn`."""
    return _target(models).jump(x, sigmas[start], sigmas[start + n], labels)


def _iterative_jump(
    models: Models, x: Tensor, sigmas: Tensor, start: Tensor, n: Steps, labels: Tensor | None
) -> Tensor:
    """n jumps of the average through the grid. Source: sony/ctm, `self_learn_iterative`."""
    counts = torch.as_tensor(n, device=x.device).expand(len(x))
    for step in range(int(counts.max())):
        index = start + torch.minimum(torch.full_like(start, step), counts)
        index_to = start + torch.minimum(torch.full_like(start, step + 1), counts)
        x = jump_moved(_target(models), x, sigmas[index], sigmas[index_to], labels)
    return x


SELF_TEACHERS: dict[str, Callable[..., Tensor]] = {
    "heun_denoiser": _heun_denoiser,
    "jump": _jump,
    "iterative_jump": _iterative_jump,
}
