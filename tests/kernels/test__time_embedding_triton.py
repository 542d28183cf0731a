"""Triton's noise-level embedding: sines, tiles, derivatives, and what it is compiled to."""

import itertools

import pytest
import torch

from ctm_fast.kernels import _triton, time_embedding
from ctm_fast.kernels._time_embedding_triton import forward
from ctm_fast.kernels.time_embedding import example, launches, reference
from tests.kernels.aot import SHARED, compiled
from tests.kernels.contract import gradients, in_float64
from tests.tolerance import assert_accurate

DEVICES = [
    pytest.param(
        "cpu", marks=pytest.mark.skipif(not _triton.INTERPRETED, reason="runs in the interpreter")
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
compiles = pytest.mark.skipif(
    _triton.INTERPRETED or _triton.ABSENT is not None, reason="needs triton's compiler"
)


def compared(args):
    """Checks values and gradients of a call against float64."""

    def fast(*values):
        return time_embedding(*values, backend="triton")

    (found,), ours = gradients(fast, args, {})
    (plain,), same = gradients(reference, args, {})
    (truth,), exact = gradients(reference, *in_float64(args, {}))
    check((found, *ours), (plain, *same), (truth, *exact))


def check(ours, same, exact):
    """The accuracy rule, but for a few numbers, whose error in plain PyTorch is zero by chance."""
    rounding = torch.finfo(ours[0].dtype).eps
    for one, plain, truth in zip(ours, same, exact, strict=True):
        if one.numel() < 8:
            assert (one - truth).abs().max() <= 64 * rounding * truth.abs().max()
        else:
            assert_accurate(one, plain, truth)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("largest", [3.0, 300.0, 2500.0, 1e5])
@pytest.mark.parametrize("sin_first", [False, True])
def test_sines_of_large_angles(largest, sin_first, device):
    generator = torch.Generator().manual_seed(0)
    level = ((2 * torch.rand(40, generator=generator) - 1) * largest).to(device)
    args, _ = example(batch=1, K=34, E=16, device=device)
    frequencies = torch.cat([torch.ones(1), torch.rand(16, generator=generator)]).to(device)
    _, rows, _ = forward(level, frequencies, *args[2:6], None, None, sin_first, torch.float32)
    angles = (level[:, None] * frequencies).double()
    halves = [angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()]
    error = (rows.double() - torch.cat(halves, 1)).abs()
    # A GPU may multiply and subtract in one step, and so skip the rounding of the angle.
    rounding = 0 if device == "cpu" else 2**-24 * torch.cat([angles, angles], 1).abs()
    assert (error <= 1.5e-7 + rounding).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [1, 16, 17, 65])
def test_every_tile_size(batch, device):
    for dtype in (torch.float32, torch.float16, *([torch.bfloat16] if device == "cuda" else [])):
        args, _ = example(batch=batch, K=20, E=33, dtype=dtype, after=batch, device=device)
        compared(args)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("K", [2, 32, 64, 96, 128])
def test_every_width(K, device):
    args, _ = example(batch=2, K=K, E=24, before=2, device=device)
    compared(args)


@pytest.mark.parametrize("device", DEVICES)
def test_one_row_beside_many(device):
    for levels, before, after in itertools.product((1, 3), (None, 1, 3), (None, 1, 3)):
        args, _ = example(batch=3, levels=levels, before=before, after=after, device=device)
        compared(args)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast(device):
    args, _ = example(batch=3, before=3, after=3, device=device)

    def in_half(call):
        def run(*values):
            with torch.autocast(device, torch.float16):
                return call(*values)

        return run

    (found,), ours = gradients(in_half(lambda *v: time_embedding(*v, backend="triton")), args, {})
    (plain,), same = gradients(in_half(reference), args, {})
    (truth,), exact = gradients(reference, *in_float64(args, {}))
    assert found.dtype == plain.dtype == torch.float16
    check((found, *ours), (plain, *same), (truth, *exact))


@pytest.mark.parametrize("device", DEVICES)
def test_only_wanted_gradients(device):
    args, _ = example(before=3, device=device)
    args[2].requires_grad_()
    time_embedding(*args, backend="triton").sum().backward()
    assert args[2].grad is not None and args[0].grad is None and args[7].grad is None


@pytest.mark.parametrize("device", DEVICES)
def test_no_second_derivative(device):
    args, _ = example(device=device)
    level = args[0].requires_grad_()
    y = time_embedding(*args, backend="triton").square().sum()
    (first,) = torch.autograd.grad(y, level, create_graph=True)
    with pytest.raises(RuntimeError, match="use_backend\\('reference'\\)"):
        first.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_results_do_not_change_from_run_to_run(device):
    args, _ = example(batch=33, before=33, after=33, device=device)
    runs = [gradients(lambda *v: time_embedding(*v, backend="triton"), args, {}) for _ in range(2)]
    for one, other in zip(*([*values, *grads] for values, grads in runs), strict=True):
        assert torch.equal(one, other)


@compiles
@pytest.mark.parametrize("arch", [80, 90])
@pytest.mark.parametrize(
    "case",
    [
        {"batch": 11, "K": 192, "E": 768, "dtype": torch.bfloat16},
        {"batch": 64, "K": 128, "E": 512, "dtype": torch.bfloat16, "before": 64, "after": 64},
        {"batch": 512, "K": 256, "E": 512, "dtype": torch.bfloat16},
        {"batch": 64, "K": 192, "E": 768},
    ],
    ids=str,
)
def test_compiled(case, arch):
    args, kwargs = example(device="meta", **case)
    with _triton.recorded() as recorded:
        launches(*args, **kwargs)
    assert len(recorded) == 2
    for launch in recorded:
        binary = compiled(launch, arch)
        assert binary.local == 0 and binary.registers <= 168
        assert binary.shared <= SHARED[arch] // 2
        assert binary.count("LDG", "128") + binary.count("LDGSTS", "128") > 0
        if case.get("dtype") is not None:
            products = [name for name in binary.instructions if name.startswith(("HMMA", "HGMMA"))]
            assert products, binary.instructions
