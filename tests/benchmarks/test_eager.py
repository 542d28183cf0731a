"""The plain formulations compute what the ops do; a rival that is wrong would be no measure."""

import pytest

from benchmarks.cases import Case, Problem
from benchmarks.eager import EAGER, eager, plain
from benchmarks.session import READY, RIVAL, verdict
from ctm_fast.kernels import OPS

CALLS = [
    (name, i)
    for name, entry in EAGER.items()
    for i, case in enumerate(OPS[name].cases)
    # With one pixel the gradient of queries and keys is zero, of which SDPA leaves rounding.
    if entry.call is not None and not (name == "attention" and case["shape"][2:] == (1, 1))
]


@pytest.mark.parametrize(("name", "index"), CALLS)
def test_plain_pytorch_agrees_with_the_op(name: str, index: int) -> None:
    problem = Problem(Case(name, OPS[name].cases[index], gradient=True))
    same = problem.run(problem.op.reference)
    exact = problem.exactly().run(problem.op.reference)
    found = problem.run(eager(problem.op))
    assert verdict(problem, RIVAL, found, same, exact)[0] == READY
    for result in same:
        assert found[result].shape == same[result].shape


def test_entries_name_ops_and_their_arguments() -> None:
    for name, entry in EAGER.items():
        args, kwargs = OPS[name].example(**OPS[name].cases[0])
        problem = Problem(Case(name, OPS[name].cases[0], gradient=True))
        assert len(problem.wanted) > 0
        assert not set(entry.fixed) & set(problem.wanted)
        assert len(args) + len(kwargs) >= len(entry.fixed)


def test_an_op_without_an_entry_is_compared_with_its_reference() -> None:
    op = OPS["heun_predict"]
    assert plain(op).call is None and eager(op) is op.reference
