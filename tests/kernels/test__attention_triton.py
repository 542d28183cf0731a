"""Attention by Triton: tiles, compilation without a GPU, values in the interpreter or on a GPU."""

from typing import Any

import pytest
import torch

from ctm_fast.kernels import _attention_triton as kernels
from ctm_fast.kernels import _triton, attention, use_backend
from ctm_fast.kernels._attention_triton import LAYOUTS, WIDEST, fits, padded
from ctm_fast.kernels.attention import launches
from tests.kernels.aot import SHARED, Binary, compiled
from tests.kernels.test_attention import assert_like_reference, on, run, strange_views
from tests.tolerance import assert_accurate

HALF = {"dtype": torch.float16}
CASES: list[dict[str, Any]] = [
    {"shape": (1, 24, 1, 1)},
    {"shape": (2, 48, 3, 5), "heads": 2, "layout": "edm"},
    {"shape": (1, 51, 17, 2), "channels_last": False},
    {"shape": (1, 144, 4, 8), "heads": 2, "layout": "adm-legacy", **HALF},
    {"shape": (1, 96, 8, 9), "layout": "edm", **HALF},
    {"shape": (2, 48, 8, 16), **HALF, "channels_last": False},
    {"shape": (1, 48, 16, 16), **HALF},
    {"shape": (1, 48, 12, 13), **HALF},
    {"shape": (1, 600, 2, 5), **HALF},
]
runs_here = pytest.param(
    "cpu",
    marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="needs TRITON_INTERPRET=1"),
)
devices = pytest.mark.parametrize(
    "device", [runs_here, pytest.param("cuda", marks=pytest.mark.gpu)]
)
compiles = pytest.mark.skipif(
    _triton.ABSENT is not None or _triton.INTERPRETED, reason="needs Triton's compiler"
)


def served() -> list[Any]:
    """Launches for the U-Nets' shapes, each once; those not in bfloat16 are slow tests."""
    seen, params = [], []
    for case in attention.bench_gpu:
        args, _ = attention.example(**case, device="meta")
        with _triton.recorded() as found:
            launches(*args)
        for launch in found:
            batch, channels, height, width = args[0].shape
            sizes = (height * width, args[1], channels // (3 * args[1]))
            kind = str(args[0].dtype).removeprefix("torch.")
            if (launch.kernel, kind, launch.config) not in seen:
                seen.append((launch.kernel, kind, launch.config))
                name = f"{launch.kernel.__name__}-{kind}-{sizes}-batch{batch}".strip("_")
                slow = [] if args[0].dtype == torch.bfloat16 else [pytest.mark.slow]
                params.append(pytest.param(launch, id=name, marks=slow))
    return params


def assert_lean(binary: Binary, arch: int, spare: int = 0) -> None:
    assert binary.local <= spare, "registers are spilled"
    assert binary.registers <= 255
    assert binary.shared <= SHARED[arch]


@compiles
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize("launch", served() if _triton.ABSENT is None else [])
def test_shipped_configurations_compile(launch: Any, arch: int) -> None:
    binary = compiled(launch, arch)
    assert_lean(binary, arch)
    wide = binary.count("LDG", "128") + binary.count("LDGSTS", "128")
    narrow = binary.count("LDG") + binary.count("LDGSTS") - wide
    # Up to eight loads of one number are those of the logarithms of the sums.
    assert wide >= 10 and narrow <= 8
    assert binary.count("STG", "128") >= 2
    if launch.args[0].dtype != torch.float32:
        assert binary.count("HMMA") + (binary.count("HGMMA") if arch == 90 else 0) >= 4


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rows", WIDEST[2])
def test_the_largest_heads_compile(rows: int, dtype: torch.dtype) -> None:
    """What `fits` lets through does not spill, but for a few addresses in contiguous order."""
    width = WIDEST[dtype.itemsize][rows]
    for channels_last in (True, False):
        shape = (64, 6 * width, rows // 8, 8)
        case = dict(shape=shape, heads=2, dtype=dtype, channels_last=channels_last)
        args, _ = attention.example(**case, device="meta")
        with _triton.recorded() as found:
            launches(*args)
        assert len(found) == 2
        for launch in found:
            for arch in (80, 90):
                assert_lean(compiled(launch, arch), arch, spare=0 if channels_last else 16)


def test_what_fits() -> None:
    assert [padded(n) for n in (1, 16, 17, 96, 128, 129)] == [16, 16, 32, 128, 128, 256]
    half, single = torch.bfloat16, torch.float32
    unets = [(256, 256), (64, 256), (1024, 64), (256, 64), (64, 64)]
    assert [fits(*sizes, half) for sizes in unets] == [False, True, False, True, True]
    assert [fits(*sizes, single) for sizes in unets] == [False, False, False, False, True]
    assert fits(35, 96, half) and fits(1, 1, half) and fits(200, 40, torch.float16)
    assert not fits(257, 16, half) and not fits(16, 257, half) and not fits(65, 65, half)


def test_tiles() -> None:
    """Few heads get small query blocks, and every query belongs to one program."""

    def blocks(total: int, pixels: int, width: int) -> tuple[int, int]:
        count, forward, backward = kernels._plan(
            torch.bfloat16, pixels, 1, width, "adm", True, total
        )
        size = dict(forward.constants)["BQ"]
        assert (count - 1) * size < pixels <= count * size
        assert dict(backward.constants)["BQ"] >= pixels
        return size, count

    assert blocks(8, 64, 256) == (16, 4)
    assert blocks(128, 64, 64) == (32, 2)
    assert blocks(512, 64, 64) == (64, 1)
    assert blocks(64, 256, 64) == (64, 4)
    assert blocks(512, 256, 64) == (128, 2)
    assert blocks(1, 35, 96) == (16, 3)


def test_launches_do_nothing_where_triton_does_not_serve() -> None:
    args, _ = attention.example(shape=(1, 768, 16, 16), device="meta", dtype=torch.bfloat16)
    with _triton.recorded() as found:
        launches(*args)
    assert not found


@devices
@pytest.mark.parametrize("index", range(len(CASES)))
def test_values_and_gradients(index: int, device: str, poisoned_memory: None) -> None:
    args, _ = attention.example(**CASES[index], device=device, seed=1)
    assert_like_reference("triton", args)


@pytest.mark.gpu
@pytest.mark.parametrize("case", attention.bench_gpu)
def test_shapes_of_the_networks(case: dict[str, Any], poisoned_memory: None) -> None:
    args, _ = attention.example(**case, device="cuda")
    for backend in ("torch", "triton"):
        if attention.why_not(backend, *args) is None:
            assert_like_reference(backend, args)


@devices
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_orders_of_channels(layout: str, device: str) -> None:
    (qkv, heads, _), _ = attention.example(shape=(1, 36, 3, 3), heads=2, device=device)
    places = torch.arange(36).reshape(3, 2, 6).permute(LAYOUTS[layout]).flatten()
    expected = run(on("triton"), qkv, heads)
    found = run(on("triton"), qkv[:, places.to(device)], heads, layout)
    torch.testing.assert_close(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1][:, places.to(device)])


@devices
def test_any_strides(device: str) -> None:
    (qkv, *rest), _ = attention.example(shape=(2, 24, 3, 4), heads=2, device=device)
    expected = run(on("triton"), qkv, *rest)
    for name, view in strange_views(qkv).items():
        for one, other in zip(run(on("triton"), view, *rest), expected, strict=True):
            torch.testing.assert_close(one, other, msg=name)
    row = torch.randn(1, 8, 1, 1, device=device)
    for odd in (torch.randn(2, 8, 4, 3, device=device).mT, row.expand(2, -1, 3, 4)):
        _, found = run(on("triton"), qkv, *rest, dout=odd)
        _, dense = run(on("triton"), qkv, *rest, dout=odd.clone())
        assert torch.equal(found, dense) and found.stride() == qkv.stride()


@devices
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 3, 4), (2, 6, 1, 1), (1, 6, 5, 1), (0, 6, 2, 2)])
def test_memory_order(shape: tuple[int, ...], channels_last: bool, device: str) -> None:
    order = torch.channels_last if channels_last else torch.contiguous_format
    qkv = torch.empty(shape, memory_format=order, device=device).normal_().requires_grad_()
    out = attention(qkv, 2, backend="triton")
    assert out.stride() == torch.empty((shape[0], 2, *shape[2:]), memory_format=order).stride()
    out.sum().backward()
    assert qkv.grad.stride() == qkv.stride()


@devices
@pytest.mark.parametrize("pixels", [25, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_logits(dtype: torch.dtype, pixels: int, device: str) -> None:
    """Queries a hundred times as large: the softmax is nearly a choice of one pixel."""
    shape = (2, 48, pixels // 5, 5)
    (qkv, *rest), _ = attention.example(shape=shape, dtype=dtype, scale=1.0, device=device)
    qkv[:, :16] *= 100
    found, plain = run(on("triton"), qkv, *rest), run(attention.reference, qkv, *rest)
    exact = run(attention.reference, qkv.double(), *rest)
    # The interpreter rounds a product before it subtracts the maximum from it.
    assert_accurate(found[0], plain[0], exact[0], times=4)
    # Over several blocks of keys the gradient subtracts a mean of the rounded output.
    whole = dtype == torch.float16 and pixels <= 64
    assert_accurate(found[1], plain[1], exact[1], times=2 if whole else 32)


@devices
def test_nan_stays_in_its_pixel_and_head(device: str) -> None:
    (qkv, *rest), _ = attention.example(shape=(2, 24, 3, 3), heads=2, device=device)
    qkv[1, 3, 1, 1] = float("nan")  # a query of the first head
    out = attention(qkv, *rest, backend="triton")
    assert out[1, :4, 1, 1].isnan().all()
    out[1, :4, 1, 1] = 0
    assert out.isfinite().all()


@devices
def test_runs_are_repeatable_bit_for_bit(device: str) -> None:
    args, _ = attention.example(shape=(2, 96, 5, 7), heads=2, **HALF, device=device)
    first, second = run(on("triton"), *args), run(on("triton"), *args)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@devices
def test_gradient_of_a_gradient_is_refused_and_not_wrong(device: str) -> None:
    (qkv, *rest), _ = attention.example(shape=(1, 12, 2, 2), device=device)
    qkv.requires_grad_()
    out = attention(qkv, *rest, backend="triton")
    (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match=r"use_backend\('reference'\)"):
        first.square().sum().backward()
    with use_backend("reference"):
        out = attention(qkv, *rest)
    (first,) = torch.autograd.grad(out.square().sum(), qkv, create_graph=True)
    first.square().sum().backward()
    assert qkv.grad.isfinite().all() and (qkv.grad != 0).any()


@devices
def test_autocast_changes_nothing(device: str) -> None:
    args, _ = attention.example(shape=(1, 24, 3, 3), heads=2, device=device)
    expected = attention(*args, backend="triton")
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(attention(*args, backend="triton"), expected)


@devices
@pytest.mark.parametrize("channels_last", [False, True])
def test_registration_and_compilation(channels_last: bool, device: str) -> None:
    args, _ = attention.example(
        shape=(1, 24, 2, 3), heads=2, channels_last=channels_last, device=device
    )
    leaf = args[0].requires_grad_()
    calls = attention.registered(leaf, *args[1:])
    assert len(calls) == 2
    for overload, values in calls:
        torch.library.opcheck(overload, values)
    torch._dynamo.reset()
    compiled_call = torch.compile(on("triton"), fullgraph=True, backend="aot_eager")
    for one, other in zip(run(compiled_call, *args), run(on("triton"), *args), strict=True):
        assert torch.equal(one, other) and one.stride() == other.stride()
    with torch.no_grad():
        assert not attention(leaf, *args[1:], backend="triton").requires_grad


@pytest.mark.skipif(_triton.INTERPRETED, reason="there Triton runs on the CPU")
def test_without_a_gpu_nothing_is_registered_to_run() -> None:
    args, _ = attention.example(shape=(1, 24, 2, 3), heads=2)
    assert attention.registered(*args) == []
