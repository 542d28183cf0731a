"""The fewest bytes of a case, counted by hand."""

import torch

from benchmarks.cases import Case, Problem
from benchmarks.traffic import least_bytes, size


def count(op: str, gradient: bool, **options) -> int:
    problem = Problem(Case(op, options, gradient=gradient))
    with torch.no_grad():
        result = problem.op.reference(*problem.args, **problem.kwargs)
    return least_bytes(problem, [result])


def test_forward_reads_and_writes_once() -> None:
    shape = {"shape": (2, 6, 5, 7), "groups": 3, "dtype": torch.bfloat16, "modulated": False}
    image, factors = 2 * 2 * 6 * 5 * 7, 2 * 4 * 6
    assert count("group_norm", False, **shape) == 2 * image + factors
    assert count("group_norm", True, **shape) == 5 * image + 3 * factors


def test_a_backward_that_does_not_need_the_images_does_not_read_them() -> None:
    image, factors = 4 * 2 * 3 * 4 * 4, 2 * 4 * 2
    # Reads dy and both factors, writes the gradients of x and F.
    backward = 3 * image + factors
    forward = 3 * image + factors
    assert count("jump", False, shape=(2, 3, 4, 4)) == forward
    assert count("jump", True, shape=(2, 3, 4, 4)) == forward + backward


def test_expanded_dimensions_count_once() -> None:
    assert size([torch.zeros(1, 5).expand(7, 5), torch.zeros(0, 3)]) == 20
