"""Cases survive JSON, and a problem gives every variant the same inputs and output gradients."""

import json

import pytest
import torch

from benchmarks.cases import Case, Problem, case_from_json, cases, named_tensors
from ctm_fast.kernels import OPS

SMALL = {"shape": (2, 6, 5, 7), "groups": 3, "dtype": torch.bfloat16}


@pytest.mark.parametrize("name", OPS)
def test_every_case_survives_json_and_has_its_own_words(name: str) -> None:
    for device, table in (("cpu", OPS[name].bench), ("cuda", OPS[name].bench_gpu)):
        found = list(cases(name, device))
        for case in found:
            again = case_from_json(json.loads(json.dumps(case.to_json())))
            assert again.to_json() == case.to_json() and again.words == case.words
            assert "torch." not in case.words
        modes = 2 if OPS[name].differentiable else 1
        assert len({(c.words, c.mode) for c in found}) == modes * len(table or OPS[name].bench)


def test_cases_are_chosen_by_their_words() -> None:
    every = list(cases("group_norm"))
    some = list(cases("group_norm", substring="bfloat16", gradients=False))
    assert 0 < len(some) < len(every)
    assert all("bfloat16" in case.words and case.mode == "forward" for case in some)


def test_gradients_are_those_of_the_reference() -> None:
    problem = Problem(Case("group_norm", SMALL, gradient=True))
    found = problem.run(problem.op.reference)
    assert list(found)[:4] == ["result 0", *(f"gradient of {n}" for n in ("x", "weight", "bias"))]
    (dy,) = problem.output_gradients([found["result 0"]])
    assert dy.dtype == torch.bfloat16 and dy.stride() == found["result 0"].stride()
    result = problem.op.reference(*problem.args, **problem.kwargs)
    result.backward(dy)
    assert torch.equal(problem.args[0].grad, found["gradient of x"])


def test_the_exact_problem_has_the_same_numbers_in_float64() -> None:
    problem = Problem(Case("group_norm", SMALL, gradient=True))
    same = problem.run(problem.op.reference)
    exact = problem.exactly().run(problem.op.reference)
    assert {t.dtype for t in exact.values()} == {torch.float64}
    for name, truth in exact.items():
        torch.testing.assert_close(same[name].double(), truth, rtol=2e-2, atol=2e-2, msg=name)


def test_a_forward_case_builds_no_graph() -> None:
    problem = Problem(Case("group_norm", SMALL))
    assert problem.wanted == {} and not any(t.requires_grad for t in tensors_of(problem))
    assert not problem.run(problem.op.reference)["result 0"].requires_grad


def test_factors_that_nobody_differentiates_are_left_out() -> None:
    problem = Problem(Case("jump", {"shape": (2, 3, 4, 4)}, gradient=True))
    assert list(problem.wanted) == ["x", "F"]


def test_tensors_in_lists_are_named_by_position() -> None:
    problem = Problem(Case("affine", {"rows": (8, 12)}, gradient=True))
    assert {"emb", "weights[0]", "weights[1]", "biases[1]"} <= set(problem.wanted)
    assert named_tensors(problem.op, problem.args, problem.kwargs).keys() >= set(problem.wanted)


def test_work_repeats_without_accumulating() -> None:
    problem = Problem(Case("group_norm", SMALL, gradient=True))
    work = problem.work(problem.op.reference)
    work(), work()
    assert all(t.grad is None for t in tensors_of(problem))


def tensors_of(problem: Problem) -> list[torch.Tensor]:
    return list(named_tensors(problem.op, problem.args, problem.kwargs).values())
