"""The native group norm as a registered op: threads, layouts, compilation, checked addresses."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ctm_fast.kernels import _native, group_norm
from ctm_fast.kernels._group_norm_native import is_channels_last

from .test_group_norm import CASES, needs_native, run


@needs_native
@pytest.mark.parametrize("shape", [(9, 64, 16, 16), (1, 256, 16, 16), (2, 192, 32, 16)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_change_nothing(
    shape: tuple[int, int, int, int], channels_last: bool, threads: None
) -> None:
    args, _ = group_norm.example(shape=shape, groups=32, pre=True, channels_last=channels_last)
    results = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        y, gradients = run(lambda *a: group_norm(*a, backend="native"), args)
        results.append([y, *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_layouts_that_are_both() -> None:
    assert is_channels_last(torch.empty(2, 8, 1, 1))
    assert not is_channels_last(torch.empty(2, 1, 3, 3))
    image = torch.empty(2, 4, 3, 3)
    assert not is_channels_last(image)
    assert is_channels_last(image.contiguous(memory_format=torch.channels_last))


@needs_native
@pytest.mark.parametrize("case", [0, 1, 5])
def test_registration(case: int) -> None:
    args, _ = group_norm.example(**CASES[case])
    leaves = [a.requires_grad_() if isinstance(a, torch.Tensor) else a for a in args]
    (forward, inputs), (backward, gradients) = group_norm.registered(*leaves)
    torch.library.opcheck(forward, inputs)
    detached = (a.detach() if isinstance(a, torch.Tensor) else a for a in gradients)
    torch.library.opcheck(backward, tuple(detached))


@needs_native
@pytest.mark.parametrize("case", [0, 1])
def test_compiled_gradients_are_those_of_eager(case: int) -> None:
    args, _ = group_norm.example(**CASES[case])

    def call(*values: Any) -> torch.Tensor:
        return group_norm(*values, backend="native") * 2

    torch._dynamo.reset()
    y, gradients = run(torch.compile(call, fullgraph=True, backend="aot_eager"), args)
    expected, expected_gradients = run(call, args)
    assert torch.equal(y, expected) and y.stride() == expected.stride()
    assert all(torch.equal(a, b) for a, b in zip(gradients, expected_gradients, strict=True))


@needs_native
@pytest.mark.slow
def test_inductor() -> None:
    args, _ = group_norm.example(**CASES[7])
    torch._dynamo.reset()
    compiled = torch.compile(lambda *a: F.relu(group_norm(*a, backend="native")), fullgraph=True)
    assert torch.equal(compiled(*args), F.relu(group_norm(*args, backend="native")))


@needs_native
def test_the_compiled_part_checks_what_it_is_given() -> None:
    row = (8, 0, 0)
    for match, sizes, code, address in (
        ("groups divide channels", (1, 6, 4, 4), 0, 8),
        ("dtype code 3", (1, 6, 4, 2), 3, 8),
        ("null address", (1, 6, 4, 2), 0, 0),
    ):
        args = (address, row, row, row, row, row, sizes, code, True, False)
        with pytest.raises(ValueError, match=match):
            _native.module.group_norm(args, 1e-5, 8, 8, 8, 1)
