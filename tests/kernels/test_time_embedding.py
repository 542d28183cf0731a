"""Embedding of a noise level: formula, frequencies, rounding, autocast, errors."""

import math

import pytest
import torch
import torch.nn.functional as F

from ctm_fast.kernels import BackendError, time_embedding
from ctm_fast.kernels import _triton as triton_file
from ctm_fast.kernels.time_embedding import BENCH_GPU, example, positional_frequencies


def silu(size: torch.Tensor) -> torch.Tensor:
    return size / (1 + torch.exp(-size))


@pytest.mark.parametrize("sin_first", [False, True])
@pytest.mark.parametrize("before", [None, 1, 3])
@pytest.mark.parametrize("after", [None, 1, 3])
@pytest.mark.parametrize("levels", [1, 3])
def test_formula(sin_first, before, after, levels):
    options = {"sin_first": sin_first, "before": before, "after": after, "levels": levels}
    args, _ = example(batch=3, dtype=torch.float64, **options)
    level, frequencies, w0, b0, w1, b1, _, extra, late = args
    angles = level.double()[:, None] * frequencies.double()
    rows = torch.cat([angles.sin(), angles.cos()] if sin_first else [angles.cos(), angles.sin()], 1)
    if before:
        rows = rows + extra
    h = silu(rows @ w0.t() + b0) @ w1.t() + b1
    if after:
        h = h + late
    found = time_embedding(*args)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, silu(h))
    assert len(found) == max(before or 1, after or 1, levels)


def test_frequencies():
    for count, endpoint in ((4, True), (4, False), (1, False)):
        found = positional_frequencies(count, endpoint)
        last = count - 1 if endpoint else count
        assert found == pytest.approx([10000 ** (-k / last) for k in range(count)], rel=1e-12)


def test_waves_are_not_rounded_before_the_first_layer_needs_it():
    """In bfloat16 these levels, and their angles, would all be the same."""
    args, _ = example(batch=3, K=32, dtype=torch.bfloat16)
    level = torch.tensor([1000.0, 1001.0, 1002.0])
    assert level.bfloat16().unique().numel() == 1
    found = time_embedding(level, *args[1:])
    assert found.dtype == torch.bfloat16
    wide = [a.double() if isinstance(a, torch.Tensor) else a for a in (level, *args[1:])]
    assert (found.double() - time_embedding(*wide)).abs().max() < 0.02
    assert (found[0] - found[1]).abs().max() > 0.1


def test_float64_levels_are_kept():
    args, _ = example(batch=2, dtype=torch.float32, largest=1.0)
    level = torch.tensor([1e6, 1e6 + 0.01], dtype=torch.float64)
    found = time_embedding(level, *args[1:])
    assert found.dtype == torch.float32
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert torch.equal(*time_embedding(level.float(), *args[1:]))


@pytest.mark.parametrize("after_dtype", [torch.float32, torch.bfloat16])
def test_autocast_is_that_of_linear_layers(after_dtype):
    args, _ = example(batch=5, K=32, before=5, after=5)
    level, frequencies, w0, b0, w1, b1, _, before, after = args
    after = after.to(after_dtype)
    angles = level[:, None] * frequencies
    rows = torch.cat([angles.cos(), angles.sin()], 1) + before
    with torch.autocast("cpu", torch.bfloat16):
        found = time_embedding(*args[:-1], after)
        h = F.silu(F.linear(rows, w0, b0))
        expected = F.silu(F.linear(h, w1, b1) + after)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16())


def test_labels_of_any_dtype():
    args, _ = example(batch=2, before=2, after=2, dtype=torch.bfloat16)
    wide = [a.float() if i > 6 else a for i, a in enumerate(args)]
    assert time_embedding(*wide).dtype == torch.bfloat16
    torch.testing.assert_close(time_embedding(*wide), time_embedding(*args), rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(()), r"c_noise is torch.float32 of shape \(\)"),
        (0, torch.zeros(3, dtype=torch.bfloat16), "c_noise is torch.bfloat16"),
        (0, torch.zeros(2), r"before .* shape \(3, 16\); .* shape \(2 or 1, 16\)"),
        (1, torch.zeros(16), r"frequencies .* shape \(16,\); .* shape \(8,\)"),
        (1, torch.zeros(8).long(), "frequencies are torch.int64"),
        (2, torch.zeros(32, 15), r"weight0 .* shape \(32, 15\); .* even K"),
        (3, torch.zeros(31), r"bias0 .* shape \(31,\); .* shape \(32,\)"),
        (4, torch.zeros(32, 31), r"weight1 .* shape \(32, 31\); .* \(32, 32\)"),
        (4, torch.zeros(32, 32).double(), "weight1 is torch.float64"),
        (5, torch.zeros(1), r"bias1 .* shape \(1,\)"),
        (7, torch.zeros(16), r"before .* shape \(16,\)"),
        (7, torch.zeros(3, 16).long(), "before is torch.int64"),
        (8, torch.zeros(2, 32), r"after .* shape \(2, 32\); .* shape \(3 or 1, 32\)"),
        (8, torch.zeros(3, 16), r"after .* shape \(3, 16\)"),
    ],
)
def test_errors_name_what_is_wrong(place, value, message):
    args, _ = example(before=3, after=3)
    with pytest.raises(ValueError, match=message):
        time_embedding(*args[:place], value, *args[place + 1 :])


@pytest.mark.skipif(not triton_file.INTERPRETED, reason="elsewhere the device is refused first")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda args: (args[0].double(), *args[1:]), "float64 noise level"),
        (lambda args: (args[0], args[1].double(), *args[2:]), "float64 noise level"),
        (
            lambda args: (*args[:2], *(a.double() for a in args[2:6])),
            "layers in float32, bfloat16 and float16, not torch.float64",
        ),
    ],
)
def test_what_triton_refuses(change, message):
    args, _ = example()
    with pytest.raises(BackendError, match=message):
        time_embedding(*change(args), backend="triton")


def test_benchmarks_are_the_published_sizes():
    sizes = {(case["K"], case["E"]) for case in BENCH_GPU}
    assert sizes == {(128, 512), (256, 512), (192, 768)}
    # ADM's c_noise is 250 log sigma.
    assert 250 * abs(math.log(0.002)) > 1500 == max(case.get("largest", 0) for case in BENCH_GPU)
