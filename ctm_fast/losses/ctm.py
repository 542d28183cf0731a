"""Consistency trajectory models (CTM). Kim et al. 2024 (ICLR), arXiv:2310.02279.

The five choices: levels t >= u >= s on a Karras grid; the pair x_t, x_u lies on one trajectory
of the teacher; the student jumps t -> s, a copy without gradient jumps u -> s; both ends are
carried to sigma_min by the frozen average and compared there; weight uniform by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..densities import AnyDensity, HalfLogNormal
from ..registry import choice
from ..sigmas import RHO, karras_sigmas
from ..timesteps import TrajectoryLevels
from .distances import AnyDistance, Distance, PseudoHuber, TeacherFeatures
from .dsm import denoising_loss, noised
from .objective import Balance, Batch, Models
from .trajectories import NETWORKS, SELF_TEACHERS, jump_moved, solve_with_teacher, target_of
from .weightings import weighting

_DISTANCES = "ctm_fast.losses.distances:DISTANCES"
_DENSITIES = "ctm_fast.densities:DENSITIES"


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
    denoising_frequency: float = 1.0  # share of optimizer steps with the DSM term, in (0, 1]
    estimate_inner: str = "student"  # who jumps t -> s: student | frozen_student | target
    estimate_outer: str = "target"  # who carries the estimate s -> sigma_min: target | student
    target_inner: str = "student"  # who jumps u -> s: student (official) | target (paper) | none
    target_matching: bool = False  # estimate jumps t -> u instead of t -> s
    self_teacher: str | None = None  # None: distil; else heun_denoiser | jump | iterative_jump

    def __post_init__(self) -> None:
        _check("estimate_inner", self.estimate_inner, ["student", "frozen_student", "target"])
        _check("estimate_outer", self.estimate_outer, NETWORKS)
        if self.estimate_inner != "student" and self.estimate_outer != "student":
            raise ValueError(
                f"no gradient flows through estimate_inner={self.estimate_inner!r} with "
                f"estimate_outer={self.estimate_outer!r}; one of them must be 'student'"
            )
        if not 0 < self.denoising_frequency <= 1:
            raise ValueError(
                f"denoising_frequency must be in (0, 1], got {self.denoising_frequency}; "
                "denoising_weight=0 switches the term off"
            )
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
            if self.denoising_frequency < 1:
                uniform = torch.rand((), generator=generator, device=device)
                draw["dsm_on"] = float(uniform < self.denoising_frequency)
        return draw

    @torch.no_grad()
    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        """Solve the teacher from t to u and carry the result to the target image."""
        draw, labels = batch.draw, batch.labels
        sigmas = self.grid(models.student, batch.images.device)
        t, u, s = (sigmas[draw[f"{name}_index"]] for name in "tus")
        x_t = noised(batch.images, t, draw["noise"])
        solve = SELF_TEACHERS[self.self_teacher] if self.self_teacher else solve_with_teacher
        x_u = solve(models, x_t, sigmas, draw["t_index"], draw["num_steps"], labels)
        if self.target_inner == "none":
            at, x_s = u, x_u
        else:
            at, x_s = s, jump_moved(NETWORKS[self.target_inner](models), x_u, u, s, labels)
        low = sigmas[-1].expand_as(at)
        images = jump_moved(target_of(models), x_s, at, low, labels)
        weight = weighting(self.weighting)(t, s, models.student.sigma_data)
        draw.update(t=t, s=u if self.target_matching else s, x_t=x_t, weight=weight)
        for name, kept in self.compared_by.targets(images, labels, models).items():
            draw[f"target_{name}"] = kept

    def estimate(self, batch: Batch, models: Models) -> Tensor:
        """The student's jump t -> s, carried to sigma_min with gradient: (batch, C, H, W)."""
        draw, labels = batch.draw, batch.labels
        t, s = draw["t"], draw["s"]
        model = target_of(models) if self.estimate_inner == "target" else models.student
        with torch.set_grad_enabled(self.estimate_inner == "student" and torch.is_grad_enabled()):
            x_s = model.jump(draw["x_t"], t, s, labels)
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
            return self.denoising_weight * draw.get("dsm_on", 1.0) * loss
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
