"""The native group norm: instruction sets, threads, residuals, layouts, compilation, addresses."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ctm_fast.kernels import _native, group_norm
from ctm_fast.kernels._group_norm_native import is_channels_last
from tests.tolerance import assert_accurate

from .test_group_norm import CASES, in_float64, needs_native, run

SETS = ["portable", "avx512", "avx512_bf16"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def use(name: str) -> None:
    """Runs the loops for this instruction set from now on; skips the test on a CPU without it."""
    if not _native.module.group_norm_use(name):
        pytest.skip(f"this CPU or build has no {name}")


@pytest.fixture
def any_set() -> Iterator[None]:
    """Restores the instruction set after a test that chooses one."""
    yield
    for name in SETS:
        _native.module.group_norm_use(name)


def native(*args: Any) -> Any:
    return group_norm(*args, backend="native")


@needs_native
@pytest.mark.parametrize("name", SETS)
def test_every_instruction_set(name: str, any_set: None, poisoned_memory: None) -> None:
    use(name)
    wide = {"shape": (1, 33, 3, 23), "groups": 3, "pre": True, "residual": 0.5}
    for case in (*CASES, wide, {**wide, "channels_last": False, "dtype": torch.bfloat16}):
        args, _ = group_norm.example(**case)
        fast, gradients = run(native, args)
        plain, plain_gradients = run(group_norm.reference, args)
        exact, exact_gradients = run(group_norm.reference, in_float64(args))
        assert_accurate(fast, plain, exact)
        for one, same, truth in zip(gradients, plain_gradients, exact_gradients, strict=True):
            assert_accurate(one, same, truth)


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_is_written_beyond_the_images(
    name: str, channels_last: bool, any_set: None
) -> None:
    use(name)
    for channels, side in ((1, 1), (3, 3), (15, 2), (17, 4), (33, 5), (50, 7)):
        for dtype in DTYPES:
            shape = (2, channels, side, side)
            x, weight = torch.randn(shape).to(dtype), torch.ones(channels)
            row = (weight.data_ptr(), 0, 0)
            sizes = (2, channels, side * side, 1)
            args = (row, row, (0, 0, 0), (0, 0, 0), (0, 0, 0), sizes, _native.DTYPES[dtype])
            args = (x.data_ptr(), *args, channels_last, True, 1.0)
            mean, rstd = torch.empty(2), torch.empty(2)
            images = [torch.full((x.numel() + 128,), 7.0, dtype=dtype) for _ in range(3)]
            y, summed, dx = (t[64:-64].data_ptr() for t in images)
            stats = (mean.data_ptr(), rstd.data_ptr())
            _native.module.group_norm(args, 1e-5, x.data_ptr(), summed, y, *stats, 1)
            args = (summed, *args[1:])
            sums = [torch.empty(channels) for _ in range(2)]
            addresses = (dx, *(t.data_ptr() for t in sums), 0, 0, 0)
            _native.module.group_norm_backward(args, y, y, *stats, *addresses, 1)
            for t in images:
                assert (t[:64] == 7).all() and (t[-64:] == 7).all()


@needs_native
def test_both_ways_of_rounding_to_bfloat16_agree(any_set: None) -> None:
    args, _ = group_norm.example(shape=(2, 24, 9, 7), dtype=torch.bfloat16, residual=0.7)
    use("avx512_bf16")
    y, gradients = run(native, args)
    use("avx512")
    other, other_gradients = run(native, args)
    assert torch.equal(y, other)
    assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_statistics_of_unlike_pixels(name: str, layout: torch.memory_format, any_set: None) -> None:
    """The mean of the first pixels says nothing about the others, and is far from all of them."""
    use(name)
    generator = torch.Generator().manual_seed(3)
    x = 0.01 * torch.randn(1, 6, 80, 70, generator=generator)
    x[:, :, :1], x[:, :, 2:] = x[:, :, :1] + 1000, x[:, :, 2:] + 1001
    x = x.contiguous(memory_format=layout)
    args = (x, 2, torch.ones(6), torch.zeros(6))
    plain, exact = group_norm.reference(*args), group_norm.reference(*in_float64(args))
    assert_accurate(native(*args), plain, exact)


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("shape", [(9, 64, 16, 16), (1, 256, 16, 16), (2, 192, 32, 16)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_threads_change_nothing(
    name: str,
    shape: tuple[int, int, int, int],
    channels_last: bool,
    any_set: None,
    threads: None,
) -> None:
    use(name)
    args, _ = group_norm.example(
        shape=shape, groups=32, pre=True, residual=0.7, channels_last=channels_last
    )
    results = []
    for count in (1, 2, 3, 5):
        torch.set_num_threads(count)
        y, gradients = run(native, args)
        results.append([y, *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [1.0, 0.7])
def test_residual_is_added_before_all_else(
    name: str, dtype: torch.dtype, layout: torch.memory_format, factor: float, any_set: None
) -> None:
    use(name)
    args, _ = group_norm.example(shape=(2, 20, 7, 9), dtype=dtype, residual=factor)
    x, residual = (args[i].contiguous(memory_format=layout).requires_grad_() for i in (0, 9))
    y, summed = native(x, *args[1:9], residual, factor)
    expected = ((x.float() + residual.float()) * factor).to(dtype).detach().requires_grad_()
    assert torch.equal(summed, expected) and summed.stride() == y.stride() == x.stride()
    alone = native(expected, *args[1:9])
    assert torch.equal(y, alone)

    dy, dsummed = torch.randn_like(y), torch.randn_like(y)

    def gradient(call: Any, dtype: torch.dtype, used: slice) -> torch.Tensor:
        """In x, which is also that in the residual."""
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, residual)]
        rest = in_float64(args[1:9]) if dtype == torch.float64 else args[1:9]
        results, weights = call(leaves[0], *rest, leaves[1], factor)[used], (dy, dsummed)[used]
        one, other = torch.autograd.grad(results, leaves, [w.to(dtype) for w in weights])
        assert torch.equal(one, other)
        return one

    for used in (slice(0, 1), slice(1, 2), slice(0, 2)):
        fast = gradient(native, dtype, used)
        plain = gradient(group_norm.reference, dtype, used)
        assert_accurate(fast, plain, gradient(group_norm.reference, torch.float64, used))
        assert fast.stride() == x.stride()


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_residual_and_gradients_of_another_layout(layout: torch.memory_format) -> None:
    args, _ = group_norm.example(shape=(2, 6, 4, 4), residual=0.7)
    x = args[0].contiguous(memory_format=layout)
    strided = torch.randn(2, 6, 4, 8)
    for other in (
        strided[..., ::2],
        strided[..., :4].transpose(2, 3),
        strided[:1, :, :1, :4].expand(2, 6, 4, 4),
        strided[..., :4].contiguous(memory_format=torch.channels_last),
    ):
        results = []
        for tensor in (other, other.contiguous(memory_format=layout)):
            before = tensor.clone()
            leaves = [x.clone().requires_grad_(), tensor.detach().requires_grad_()]
            y, summed = native(leaves[0], *args[1:9], leaves[1], 0.7)
            assert summed.stride() == y.stride() == x.stride()
            gradients = torch.autograd.grad((y, summed), leaves, (tensor, tensor.flip(0)))
            assert torch.equal(tensor, before)
            results.append([y, summed, *gradients])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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
        return native(*values) * 2

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
    compiled = torch.compile(lambda *a: F.relu(native(*a)), fullgraph=True)
    assert torch.equal(compiled(*args), F.relu(native(*args)))


@needs_native
def test_the_compiled_part_checks_what_it_is_given() -> None:
    row = (8, 0, 0)
    for match, sizes, code, address, residual in (
        ("groups divide channels", (1, 6, 4, 4), 0, 8, 0),
        ("dtype code 3", (1, 6, 4, 2), 3, 8, 0),
        ("null address", (1, 6, 4, 2), 0, 0, 0),
        ("null address", (1, 6, 4, 2), 0, 8, 8),
    ):
        args = (address, row, row, row, row, row, sizes, code, True, False, 1.0)
        with pytest.raises(ValueError, match=match):
            _native.module.group_norm(args, 1e-5, residual, 0, 8, 8, 8, 1)
    assert not _native.module.group_norm_use("avx1024")
