"""`TeacherSolve`: the solve of a frozen teacher along its grid, kept over optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..registry import Registry
from ..solvers.grid_solve import GridSolve, Table, check_grid, check_steps

SOLVER_TABLES = Registry(
    "teacher solver",
    {
        "heun": "ctm_fast.solvers.heun:HeunTable",
        "multistep": "ctm_fast.solvers.multistep:MultistepTable",
    },
)
SIZES = 8  # captured batch sizes per number of slots


class Pool(Protocol):
    """What runs a function as a CUDA graph; see `ctm_fast.inference.graphs.GraphPool`."""

    def run(self, key: Any, function: Any, *inputs: Tensor | None) -> Any:
        """function(*inputs), captured at the first call of `key` with such inputs."""
        ...


class TeacherSolve:
    """Moves images along the teacher's trajectories, each from its own level by its own steps.

    Everything that does not change from call to call is kept: coefficients, memory of the states,
    what the network is told at every level, CUDA graphs. A network batch has `slots` images; the
    slot of an image whose steps are done goes to the next one. Nothing waits for the device as
    long as `start` and `num_steps` are on the CPU.

    Args:
        denoiser: has `raw` and `precond`, as a `Denoiser`. Its weights may change in place; after
            moving or casting it make another TeacherSolve.
        sigmas: (num_scales,) positive levels; on the CPU, from elsewhere they are copied there.
        slots: images per network batch, >= 1; None: all of the call. No result depends on it.
        pool: runs every step of a network batch as one CUDA graph. Batches then come in at most
            eight sizes and are padded between them; on a CPU, and without a pool, nothing is.
        solver: "heun" (two network calls per step) or "multistep" (one, and one more for the first
            step), of order 2 both.

    Raises:
        ValueError: for an unknown solver, slots below 1, levels that are not positive, or a
            denoiser without `raw` and `precond`.

    Source: Kim et al. 2024 (CTM), Section 3.2.
    """

    def __init__(
        self,
        denoiser: Any,
        sigmas: Tensor | Sequence[float],
        *,
        slots: int | None = None,
        pool: Pool | None = None,
        solver: str = "heun",
    ) -> None:
        if not hasattr(denoiser, "raw") or not hasattr(denoiser, "precond"):
            raise ValueError(
                f"a teacher solve takes a Denoiser apart, a {type(denoiser).__name__} has no "
                "`raw` and `precond`; use ctm_fast.solvers.heun_solve_reference"
            )
        if slots is not None and slots < 1:
            raise ValueError(f"slots must be at least 1, got {slots}")
        self.denoiser = denoiser
        self.sigmas = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
        self.num_scales = check_grid(self.sigmas, self.sigmas)
        self.slots, self.pool = slots, pool
        self._table_of = SOLVER_TABLES[solver]
        self._solves: dict[tuple[torch.dtype, torch.device], GridSolve] = {}

    def __call__(
        self, x: Tensor, start: Tensor, num_steps: int | Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Points after `num_steps` steps, shape and dtype of x; no gradient.

        Args:
            x: (batch, ...) float32 or float64, image j at level sigmas[start[j]].
            start: (batch,) int64 grid indices, best on the CPU whatever x's device.
            num_steps: steps of every image, or (batch,) int64, best on the CPU;
                start + num_steps <= num_scales - 1.
            labels: (batch,), (batch, classes) or (1, classes), passed to the network.

        Raises:
            ValueError: for indices off the grid, real indices, or a state in half precision.
        """
        start, steps = check_steps(len(x), self.num_scales, start, num_steps)
        return self._solve(x)(x, start, steps[None], labels)[0]

    def trajectory(
        self, x: Tensor, start: Tensor, num_steps: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """Several points of every image's trajectory for the price of the farthest one.

        Args:
            x: as in a call.
            start: as in a call.
            num_steps: (points, batch) int64, any order; 0 is x itself.
            labels: as in a call.

        Returns:
            (points, *shape of x).

        Raises:
            ValueError: as in a call.
        """
        steps = torch.as_tensor(num_steps).cpu()
        if steps.ndim != 2 or len(steps) == 0:
            raise ValueError(f"num_steps must be (points, {len(x)}), got {tuple(steps.shape)}")
        checked = [check_steps(len(x), self.num_scales, start, one) for one in steps]
        return self._solve(x)(x, checked[0][0], torch.stack([s for _, s in checked]), labels, True)

    def _solve(self, x: Tensor) -> GridSolve:
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"solver state must be float32 or float64, got {x.dtype}")
        solve = self._solves.get((x.dtype, x.device))
        if solve is None:
            table: Table = self._table_of(self.denoiser.precond, self.sigmas, x.dtype, x.device)
            captured = self.pool is not None and x.is_cuda
            solve = GridSolve(
                self.denoiser,
                table,
                slots=self.slots,
                sizes=SIZES if captured else None,
                run=None if self.pool is None else self.pool.run,
            )
            self._solves[x.dtype, x.device] = solve
        return solve
