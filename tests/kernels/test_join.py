"""Join: values and gradients against float64, memory orders, layouts of arguments, wrong use."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import BackendError, _native, group_norm, join, use_backend

from .contract import gradients

needs_native = pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
BACKENDS = ["torch", pytest.param("native", marks=needs_native)]
SETS = ["portable", "avx512", "avx512_bf16"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def test_reference_is_the_formula() -> None:
    (x, tail, residual, factor), _ = join.example(shape=(2, 3, 4, 5), tail=2, residual=0.7)
    expected = torch.cat([(x + residual) * factor, tail], 1)
    assert torch.equal(join(x, tail, residual, factor, backend="reference"), expected)
    without = join(x, tail, None, factor, backend="reference")
    assert torch.equal(without, torch.cat([x, tail], 1)), "there is no sum to scale"
    assert torch.equal(join(x, None, residual, factor, backend="reference"), expected[:, :3])


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("factor", [None, 1.0, 0.7])
def test_native_is_the_reference_bit_by_bit(
    name: str, dtype: torch.dtype, layout: torch.memory_format, factor: float | None
) -> None:
    if not _native.module.group_norm_use(name):
        pytest.skip(f"this CPU or build has no {name}")
    try:
        for head, rest, side in ((1, 1, 3), (16, 16, 4), (3, 33, 5), (40, 7, 9), (130, 65, 12)):
            channels_last = layout == torch.channels_last
            case: dict[str, Any] = {"dtype": dtype, "channels_last": channels_last}
            case |= {"shape": (2, head, side, side), "tail": rest, "residual": factor}
            args, _ = join.example(**case)
            if factor == 0.7:  # neither the clone nor the sum lies beside what surrounds it
                args = tuple(a.flip(0) if isinstance(a, torch.Tensor) else a for a in args)
            fast, plain = join(*args, backend="native"), join.reference(*args)
            assert torch.equal(fast, plain) and fast.stride() == plain.stride()
    finally:
        for other in SETS:
            _native.module.group_norm_use(other)


@needs_native
@pytest.mark.parametrize("layout", LAYOUTS)
def test_threads_change_nothing(layout: torch.memory_format, threads: None) -> None:
    args, _ = join.example(shape=(3, 72, 40, 40), tail=31, residual=0.7, dtype=torch.bfloat16)
    args = tuple(
        a.contiguous(memory_format=layout) if isinstance(a, torch.Tensor) else a for a in args
    )
    expected = join.reference(*args)
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        assert torch.equal(join(*args, backend="native"), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arguments_of_other_layouts(backend: str, layout: torch.memory_format) -> None:
    """x decides the memory order of the result; parts of larger tensors are read correctly."""
    (x, tail, residual, factor), _ = join.example(shape=(2, 6, 4, 4), tail=5, residual=0.7)
    x = x.contiguous(memory_format=layout)
    expected = join.reference(x, tail, residual, factor)
    whole = torch.cat([tail, tail], 1)
    for other in (
        tail.contiguous(),
        tail.contiguous(memory_format=torch.channels_last),
        whole[:, 5:],
        whole.contiguous(memory_format=torch.channels_last)[:, :5],
        tail.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        for added in (residual, residual.contiguous()):
            result = join(x, other, added, factor, backend=backend)
            torch.testing.assert_close(result, expected)
            assert result.is_contiguous(memory_format=layout)


def test_gradients_reach_only_what_wants_one() -> None:
    (x, tail, residual, factor), _ = join.example(shape=(2, 6, 4, 4), tail=5, residual=0.7)
    weight = torch.randn(2, 11, 4, 4, generator=torch.Generator().manual_seed(1))
    wanted = {0: weight[:, :6] * factor, 1: weight[:, 6:], 2: weight[:, :6] * factor}
    for backend in ("native",) if _native.ABSENT is None else ("torch",):
        for index, expected in wanted.items():
            leaves = [
                t.clone().requires_grad_(i == index) for i, t in enumerate((x, tail, residual))
            ]
            join(*leaves, factor, backend=backend).backward(weight)
            assert torch.equal(leaves[index].grad, expected)
            assert all(t.grad is None for i, t in enumerate(leaves) if i != index)


@needs_native
def test_gradients_of_gradients() -> None:
    (x, tail, residual, factor), _ = join.example(shape=(1, 2, 2, 2), tail=1, residual=0.7)
    leaves = [t.requires_grad_() for t in (x, tail, residual)]

    def penalty(backend: str) -> list[torch.Tensor]:
        y = join(*leaves, factor, backend=backend)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))

    for one, other in zip(penalty("native"), penalty("reference"), strict=True):
        torch.testing.assert_close(one, other)


@needs_native
def test_the_result_shares_no_memory() -> None:
    (x, tail), _ = join.example(shape=(1, 2, 2, 2), tail=1)
    before = x.clone()
    join(x, tail, backend="native").zero_()
    assert torch.equal(x, before)


@needs_native
def test_choice_of_backend() -> None:
    args, _ = join.example(shape=(2, 6, 4, 4), tail=5, residual=0.7)
    assert join.choose(*args) == "native"
    sliced = [a[:, :, ::2] if isinstance(a, torch.Tensor) else a for a in args]
    assert join.choose(*sliced) == "torch"
    torch.testing.assert_close(join(*sliced), join.reference(*sliced))
    with pytest.raises(BackendError, match=r"torch\.float64"):
        join(*(a.double() if isinstance(a, torch.Tensor) else a for a in args), backend="native")
    with use_backend("reference"):
        assert torch.equal(join(*args), join.reference(*args))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_tail_alone_and_a_sum_alone_have_gradients(backend: str) -> None:
    for case in ({"tail": 3}, {"residual": 0.7}):
        args, _ = join.example(shape=(2, 4, 3, 3), **case)
        _, found = gradients(lambda *a: join(*a, backend=backend), args, {})
        _, expected = gradients(join.reference, args, {})
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
@pytest.mark.parametrize("residual", [None, 0.7])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_group_norm_normalises_what_join_makes(
    backend: str, residual: float | None, layout: torch.memory_format
) -> None:
    args, _ = group_norm.example(shape=(2, 5, 4, 6), tail=4, groups=3, pre=True, residual=residual)
    x, added, tail = (t if t is None else t.contiguous(memory_format=layout)
                      for t in (args[0], args[9], args[11]))  # fmt: skip
    leaves = [t.detach().requires_grad_() for t in (x, tail, added) if t is not None]
    # A group on the border of x and tail, and tails that are parts of larger images.
    whole = torch.cat([tail, tail], 1).contiguous(memory_format=layout)
    for more in (tail, whole[:, 4:], tail.contiguous(), tail.transpose(2, 3).mT.clone()):
        rest = (*args[1:9], added, args[10], more)
        y, joined = group_norm(x, *rest, backend=backend)
        assert torch.equal(joined, join(x, more, added, args[10], backend=backend))
        torch.testing.assert_close(y, group_norm(joined, *args[1:9], backend="reference"))
        assert y.stride() == joined.stride() and joined.is_contiguous(memory_format=layout)
    rest = (*args[1:9], leaves[2] if added is not None else None, args[10], leaves[1])
    y, joined = group_norm(leaves[0], *rest, backend=backend)
    assert torch.equal(y, group_norm(x, *args[1:9], added, args[10], tail, backend=backend)[0])
    # What was normalised goes on as an image of its own.
    found = torch.autograd.grad((y.square().sum() + joined.pow(3).sum()), leaves)
    apart = join(*leaves[:2], *leaves[2:], *([args[10]] if leaves[2:] else []), backend="reference")
    same = group_norm(apart, *args[1:9], backend="reference").square().sum() + apart.pow(3).sum()
    for one, other in zip(found, torch.autograd.grad(same, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_wrong_arguments_are_named() -> None:
    (x, tail, residual, _), _ = join.example(shape=(3, 6, 4, 4), tail=5, residual=0.7)
    for message, args in {
        "tail and residual are None": (x, None),
        r"x is torch.float32 of shape \(3, 6, 4\)": (x[..., 0], tail),
        r"x is torch.float32 of shape \(3, 0, 4, 4\)": (x[:, :0], tail),
        r"tail is torch.float32 of shape \(2, 5, 4, 4\); it must be torch.float32 of shape "
        r"\(3, channels, 4, 4\)": (x, tail[:2]),
        r"tail is torch.float32 of shape \(3, 5, 4, 3\)": (x, tail[..., :3]),
        r"tail is torch.float32 of shape \(3, 0, 4, 4\)": (x, tail[:, :0]),
        r"tail is torch.float32 of shape \(3, 5, 4\)": (x, tail[..., 0]),
        "tail is torch.bfloat16": (x, tail.bfloat16()),
        "residual is torch.float64": (x, tail, residual.double()),
        r"residual is torch.float32 of shape \(3, 5, 4, 4\)": (x, tail, tail),
    }.items():
        with pytest.raises(ValueError, match=message):
            join(*args)


@needs_native
def test_the_compiled_part_checks_what_it_is_given() -> None:
    for match, addresses, sizes, code, threads in (
        ("sizes must be positive", (8, 0, 8, 8), (1, 3, 2, 4), 0, 1),
        ("sizes must be positive", (8, 0, 8, 8), (1, 0, 2, 4), 0, 1),
        ("not overflow", (8, 0, 8, 8), (2**40, 2**20, 2**21, 4), 0, 1),
        ("dtype code 3", (8, 0, 8, 8), (1, 2, 4, 4), 3, 1),
        ("null address", (8, 0, 0, 8), (1, 2, 4, 4), 0, 1),
        ("null address", (0, 0, 8, 8), (1, 2, 4, 4), 0, 1),
        ("null address", (8, 0, 8, 0), (1, 2, 4, 4), 0, 1),
        ("one thread", (8, 0, 8, 8), (1, 2, 4, 4), 0, 0),
    ):
        with pytest.raises(ValueError, match=match):
            _native.module.join(*addresses, sizes, code, True, 1.0, threads)


@needs_native
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_nothing_is_written_beyond_the_result(
    name: str, dtype: torch.dtype, channels_last: bool
) -> None:
    if not _native.module.group_norm_use(name):
        pytest.skip(f"this CPU or build has no {name}")
    try:
        for head, rest, pixels in ((1, 1, 1), (3, 14, 5), (17, 15, 4), (31, 2, 33), (16, 16, 16)):
            images = [torch.ones(2 * c * pixels, dtype=dtype) for c in (head, head, rest)]
            size = 2 * (head + rest) * pixels
            guarded = torch.full((size + 128,), 7.0, dtype=dtype)
            _native.module.join(
                *(t.data_ptr() for t in images),
                guarded[64:].data_ptr(),
                (2, head, head + rest, pixels),
                *(_native.DTYPES[dtype], channels_last, 2.0, 1),
            )
            assert (guarded[:64] == 7).all() and (guarded[-64:] == 7).all()
            assert (guarded == 4).sum() == images[0].numel()
            assert (guarded == 1).sum() == images[2].numel()
    finally:
        for other in SETS:
            _native.module.group_norm_use(other)
