"""The same cases for pytest-benchmark: `pytest benchmarks --benchmark-only -k jump`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from .bench_kernels import VARIANTS
from .cases import Case, Problem, cases
from .session import FAILED, READY, Session

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = list(cases(device=DEVICE))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "compile" not in v])
@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}, {c.mode}, {c.words}")
def test_speed(case: Case, variant: str, benchmark: Any) -> None:
    """One variant of one case, judged before it is timed; its case is its group."""
    session = Session(DEVICE)
    found = [s for s in session.prepare(Problem(case), (variant,)) if s.name == variant]
    if not found or found[0].status not in (READY, FAILED):
        pytest.skip(found[0].note if found else f"{case.op} has no {variant} for this case here")
    assert found[0].status == READY, found[0].note
    benchmark.group = f"{case.op}, {case.mode}: {case.words}"
    benchmark(session.runner(variant))
