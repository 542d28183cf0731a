"""ODE solvers: one loop (`solve`), one step each, and CTM's batched teacher solve."""

from .base import SOLVERS, Solver, slope, solve
from .churn import Churn
from .dopri5 import Dopri5, SolverError, integrate
from .euler import Euler
from .heun import Heun, HeunTable, heun_solve, heun_solve_reference
from .multistep import MultistepTable

__all__ = [
    "SOLVERS",
    "Churn",
    "Dopri5",
    "Euler",
    "Heun",
    "HeunTable",
    "MultistepTable",
    "Solver",
    "SolverError",
    "heun_solve",
    "heun_solve_reference",
    "integrate",
    "slope",
    "solve",
]
