"""Consistency trajectory models (CTM). Kim et al. 2024 (ICLR), arXiv:2310.02279.

The five choices: levels t >= u >= s on a Karras grid; the pair x_t, x_u lies on one trajectory
of the teacher; the student jumps t -> s, a copy without gradient jumps u -> s; both ends are
carried to sigma_min by the frozen average and compared there; weight uniform by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..densities import AnyDensity, HalfLogNormal
from ..inference.teacher import SOLVER_TABLES
from ..kernels.add_noise import add_noise
from ..kernels.jump import jump
from ..registry import choice
from ..sigmas import RHO
from ..solvers.memory import laid_out_like
from ..timesteps import TrajectoryLevels
from .distances import AnyDistance, Distance, PseudoHuber, TeacherFeatures
from .dsm import denoising_error, denoising_loss, noised
from .moves import grid, jump_rows, moving_rows
from .objective import Balance, Batch, Models
from .pairs import draw_pairs, flattened, per_image
from .trajectories import NETWORKS, SELF_TEACHERS, solve_with_teacher, target_of
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

    capturable: ClassVar[bool] = True  # the loss depends on the batch's tensors alone

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
    teacher_solver: str = "heun"  # heun | multistep, which calls the teacher half as often
    teacher_slots: int | None = None  # images per call of the teacher; None: all of a process
    # Pairs (u, s) per image on its solved trajectory, >= 1: as many estimates, one solve.
    pairs: int = 1

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
        _check("teacher_solver", self.teacher_solver, SOLVER_TABLES.names())
        if self.teacher_slots is not None and self.teacher_slots < 1:
            raise ValueError(f"teacher_slots must be at least 1, got {self.teacher_slots}")
        if self.pairs < 1 or (self.pairs > 1 and self.self_teacher is not None):
            raise ValueError(f"pairs must be at least 1, 1 without teacher, got pairs={self.pairs}")
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
        where = torch.device(device)
        return grid(self.num_scales, model.sigma_min, model.sigma_max, self.rho, where)

    def draw(
        self,
        batch_size: int,
        shape: tuple[int, ...],
        generator: torch.Generator,
        progress: float = 0.0,
    ) -> dict[str, Any]:
        """Indices of t, u, s, the step count n, and the noise of both terms."""
        device = generator.device
        if self.pairs == 1:
            drawn = self.levels.sample(batch_size, self.num_scales, generator)
        else:
            drawn = draw_pairs(self.levels, batch_size, self.pairs, self.num_scales, generator)
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
        draw, last = batch.draw, self.num_scales - 1
        sigmas = self.grid(models.student, batch.images.device)
        x_t = noised(batch.images, sigmas[draw["t_index"]], draw["noise"])
        draw["x_t"] = x_t
        x_u = self._solved(batch, models, x_t)
        flat = flattened(batch, self.pairs)
        t, u, s = (sigmas[flat.draw[f"{name}_index"]] for name in "tus")
        at, at_index, x_s = u, flat.known("u_index"), x_u
        if self.target_inner != "none":
            at, at_index = s, flat.known("s_index")
            rows = moving_rows(flat.known("u_index"), at_index)
            x_s = jump_rows(NETWORKS[self.target_inner](models), x_u, u, s, flat.labels, rows)
        low = sigmas[-1].expand_as(at)
        rows = moving_rows(at_index, last)
        images = jump_rows(target_of(models), x_s, at, low, flat.labels, rows)
        weight = weighting(self.weighting)(t, s, models.student.sigma_data)
        found = {"t": t, "s": u if self.target_matching else s, "weight": weight}
        for name, kept in self.compared_by.targets(images, flat.labels, models).items():
            found[f"target_{name}"] = kept
        draw.update({name: per_image(value, self.pairs) for name, value in found.items()})

    def _solved(self, batch: Batch, models: Models, x_t: Tensor) -> Tensor:
        """The points at u, one row per pair."""
        # What is known on the CPU is told from there: a solve then waits for no device.
        start, steps = batch.known("t_index"), batch.known("num_steps")
        start = batch.draw["t_index"] if start is None else start
        steps = batch.draw["num_steps"] if steps is None else steps
        args = (models, x_t, self.grid(models.student), start)
        if self.self_teacher:
            return SELF_TEACHERS[self.self_teacher](*args, steps, batch.labels)
        steps = steps if self.pairs == 1 else steps.T
        slots, solver = self.teacher_slots, self.teacher_solver
        x_u = solve_with_teacher(*args, steps, batch.labels, slots=slots, solver=solver)
        return x_u if self.pairs == 1 else x_u.transpose(0, 1).flatten(0, 1)

    def estimate(self, batch: Batch, models: Models, x_s: Tensor | None = None) -> Tensor:
        """The student's jump t -> s, carried to sigma_min with gradient: (batch, C, H, W).

        `x_s` is the point at s where the caller already has it.
        """
        draw, labels, t, s = batch.draw, batch.labels, batch.draw["t"], batch.draw["s"]
        if x_s is None:
            model = target_of(models) if self.estimate_inner == "target" else models.student
            learns = self.estimate_inner == "student" and torch.is_grad_enabled()
            with torch.set_grad_enabled(learns):
                x_s = model.jump(draw["x_t"], t, s, labels)
        low = self.grid(models.student, s.device)[-1].expand_as(s)
        rows = moving_rows(self._ends(batch), self.num_scales - 1)
        return jump_rows(NETWORKS[self.estimate_outer](models), x_s, s, low, labels, rows)

    def active(self, term: str, batch: Batch) -> bool:
        """Whether the term takes part in this step; the same for all images and processes."""
        return term != "dsm" or bool(batch.draw.get("dsm_on", 1.0))

    def order(self, batch: Batch) -> Tensor | None:
        """Images whose estimate has arrived at sigma_min last; None where the CPU cannot tell."""
        arrived = self._arrived(batch)
        return None if arrived is None else arrived.argsort(stable=True)

    def settled(self, term: str, batch: Batch) -> bool:
        """Whether no estimate of the batch needs the jump to sigma_min."""
        arrived = self._arrived(batch) if term == "ctm" else None
        return arrived is not None and bool((arrived == self.pairs).all())

    def _ends(self, batch: Batch) -> Tensor | None:
        """Where estimates end: indices on the CPU, if known, and if an end may be left out."""
        # Without gradient at s it has no other way than through the jump from there.
        if self.estimate_inner != "student":
            return None
        return batch.known("u_index" if self.target_matching else "s_index")

    def _arrived(self, batch: Batch) -> Tensor | None:
        """How many estimates of each image end at sigma_min, (batch,) on the CPU."""
        ends = self._ends(batch)
        return None if ends is None else (ends == self.num_scales - 1).view(len(ends), -1).sum(1)

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        """Per-image loss of "ctm" or "dsm", (batch,).

        Raises:
            ValueError: for another term.
        """
        draw = batch.draw
        if term == "dsm":
            noise = draw["dsm_sigma"], draw["dsm_noise"]
            loss = denoising_loss(models.student, batch.images, *noise, batch.labels)
            return self.denoising_weight * draw.get("dsm_on", 1.0) * loss
        if term != "ctm":
            raise ValueError(f"unknown term {term!r}; this objective has {self.terms}")
        flat = flattened(batch, self.pairs)
        return self._compared(self.estimate(flat, models), flat, models)

    @property
    def joint(self) -> bool:
        """Whether `losses` exists: both terms by one call of the student."""
        way = self.estimate_inner, self.estimate_outer
        return "dsm" in self.terms and way == ("student", "target")

    def losses(self, batch: Batch, models: Models, progress: float = 0.0) -> dict[str, Tensor]:
        """What `loss` gives for every term, the student being called once on twice the batch."""
        student, precond = models.student, models.student.precond
        flat, draw = flattened(batch, self.pairs), batch.draw
        x_t = flat.draw["x_t"]
        given = (flat.draw["t"], flat.draw["s"], draw["dsm_sigma"])
        t, s, sigma = (level.to(x_t.dtype) for level in given)
        noisy, scaled = add_noise(batch.images, draw["dsm_noise"], sigma, precond.c_in(sigma))
        scaled = torch.cat([precond.c_in(t).reshape(-1, 1, 1, 1) * x_t, scaled])
        labels = batch.labels
        if labels is not None and flat.labels is not None and len(labels) == len(batch):
            labels = torch.cat([flat.labels, labels])
        x = torch.cat([x_t, noisy])
        F = student.network(x, torch.cat([t, sigma]), torch.cat([s, sigma]), labels, scaled)
        jumping, denoising = precond.jump_coefficients(t, s), precond.denoise_coefficients(sigma)
        P, Q = map(torch.cat, zip(jumping, denoising))
        x_s, denoised = jump(laid_out_like(x, F), F, P, Q).split([len(x_t), len(noisy)])
        error = denoising_error(denoised, batch.images, sigma, student.sigma_data)
        estimate = self.estimate(flat, models, x_s)
        ctm = self._compared(estimate, flat, models)
        dsm = self.denoising_weight * draw.get("dsm_on", 1.0) * error
        return {"ctm": ctm, "dsm": dsm, **self.beside(estimate, batch, models)}

    def beside(self, estimate: Tensor, batch: Batch, models: Models) -> dict[str, Tensor]:
        """Further terms of the estimate; a class that has some overrides it."""
        return {}

    def _compared(self, estimate: Tensor, batch: Batch, models: Models) -> Tensor:
        draw, prefix = batch.draw, "target_"
        targets = {k.removeprefix(prefix): v for k, v in draw.items() if k.startswith(prefix)}
        distance = self.compared_by(estimate, targets, batch.labels, models)
        loss = self.consistency_weight * draw["weight"] * distance
        return loss if self.pairs == 1 else per_image(loss, self.pairs).mean(1)

    @property
    def compared_by(self) -> Distance:
        """The distance in use: `distance`, or the default for training with or without teacher."""
        if self.distance is not None:
            return self.distance
        return PseudoHuber() if self.self_teacher else TeacherFeatures()


def _check(name: str, value: str, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {name} {value!r}; choose from {sorted(allowed)}")
