"""Convolutions on matrix tiles: values against float64, sizes, threads, wrong use."""

import pytest
import torch

from ctm_fast.kernels import _native
from ctm_fast.kernels._tiles import ABSENT
from ctm_fast.kernels.convolution import convolution, fits, panels, reference
from tests.tolerance import assert_accurate

needs_tiles = pytest.mark.skipif(ABSENT is not None, reason=str(ABSENT))
BFLOAT = torch.bfloat16
# (batch, C, H, W), outputs, side of the kernel
SIZES = [
    ((2, 32, 16, 16), 64, 3),
    ((1, 64, 3, 32), 32, 3),
    ((3, 32, 8, 8), 96, 3),
    ((2, 96, 5, 8), 32, 3),
    ((1, 32, 4, 4), 32, 3),
    ((1, 32, 1, 16), 32, 3),
    ((1, 32, 1, 4), 32, 3),
    ((2, 64, 7, 48), 64, 3),
    ((1, 32, 40, 64), 32, 3),
    ((5, 32, 17, 16), 32, 3),
    ((1, 288, 16, 16), 288, 3),
    ((2, 96, 8, 8), 64, 1),
    ((16, 32, 3, 2), 32, 1),
    ((3, 64, 16, 32), 160, 1),
]


def call(shape, outputs, side, *, bias=True, seed=0):
    """x, weight and bias in bfloat16; x channels-last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    weight = torch.randn(outputs, shape[1], side, side, generator=generator)
    added = torch.randn(outputs, generator=generator).to(BFLOAT) if bias else None
    weight = (weight / (side * shape[1] ** 0.5)).to(BFLOAT)
    return x.to(BFLOAT).contiguous(memory_format=torch.channels_last), weight, added


def tiled(x, weight, bias):
    return convolution(x, panels(weight), bias, len(weight), weight.shape[2])


@needs_tiles
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs", "side"), SIZES)
def test_values(shape, outputs, side, bias, poisoned_memory):
    x, weight, added = call(shape, outputs, side, bias=bias)
    assert fits(x.shape, weight.shape)
    found = tiled(x, weight, added)
    exact = reference(*(None if t is None else t.double() for t in (x, weight, added)))
    assert_accurate(found, reference(x, weight, added), exact)
    assert found.dtype == BFLOAT and found.is_contiguous(memory_format=torch.channels_last)


@needs_tiles
@pytest.mark.parametrize(("shape", "outputs", "side"), SIZES[:4] + SIZES[-3:])
def test_threads_change_nothing(shape, outputs, side, threads):
    given = call(shape, outputs, side)
    found = []
    for count in (1, 2, 3, 7):
        torch.set_num_threads(count)
        found.append(tiled(*given))
    assert all(torch.equal(found[0], other) for other in found)


@needs_tiles
def test_every_pixel_and_channel_is_its_own():
    """Weights that copy one tap of one channel: the result is the shifted channel, exactly."""
    for shape, outputs in (((2, 64, 8, 8), 32), ((1, 64, 6, 16), 64), ((1, 32, 5, 32), 32)):
        x, weight, _ = call(shape, outputs, 3)
        border = torch.nn.functional.pad(x, (1, 1, 1, 1))
        for tap in range(9):
            row, column, source = tap // 3, tap % 3, (7 * tap + 3) % shape[1]
            one = torch.zeros_like(weight)
            one[:, source, row, column] = 1
            expected = border[:, source, row : row + shape[2], column : column + shape[3]]
            assert torch.equal(tiled(x, one, None), expected[:, None].expand(-1, outputs, -1, -1))


@needs_tiles
def test_what_is_not_finite_reaches_its_neighbours_only():
    x, weight, bias = call((1, 32, 16, 16), 32, 3)
    x[0, 5, 7, 9] = float("nan")
    found = tiled(x, weight, bias).isfinite().all(1)[0]
    expected = torch.ones(16, 16, dtype=torch.bool)
    expected[6:9, 8:11] = False
    assert torch.equal(found, expected)


@needs_tiles
def test_images_in_another_order_are_copied():
    x, weight, bias = call((2, 32, 8, 8), 32, 3)
    strange = torch.empty(2, 32, 8, 16, dtype=BFLOAT)[..., ::2].copy_(x)
    for other in (x.contiguous(), strange):
        assert torch.equal(tiled(other, weight, bias), tiled(x, weight, bias))


@needs_tiles
@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        ((1, 33, 16, 16), (32, 33, 3, 3)),
        ((1, 32, 16, 16), (3, 32, 3, 3)),
        ((1, 32, 12, 12), (32, 32, 3, 3)),
        ((1, 32, 16, 2), (32, 32, 3, 3)),
        ((1, 32, 3, 5), (32, 32, 1, 1)),
        ((3, 32, 32, 32), (32, 32, 1, 1)),
        ((1, 32, 16, 16), (32, 32, 5, 5)),
        ((1, 32, 16, 16), (32, 32, 3, 1)),
        ((1, 32, 16, 16), (32, 64, 3, 3)),
        ((0, 32, 16, 16), (32, 32, 3, 3)),
        ((32, 16, 16), (32, 32, 3, 3)),
    ],
)
def test_sizes_that_do_not_fit(shape, weight):
    assert not fits(shape, weight)
    assert fits((1, 32, 16, 16), (32, 32, 3, 3))


@needs_tiles
def test_wrong_use_is_refused():
    x, weight, bias = call((1, 32, 16, 16), 32, 3)
    packed = panels(weight)
    with pytest.raises(ValueError, match="float32"):
        convolution(x.float(), packed, bias, 32, 3)
    with pytest.raises(ValueError, match="float32"):
        convolution(x, packed, bias.float(), 32, 3)
    with pytest.raises(ValueError, match="do not convolve"):
        convolution(x, packed, bias, 64, 3)
    with pytest.raises(ValueError, match="do not convolve"):
        convolution(x, packed, bias[:7], 32, 3)
    with pytest.raises(ValueError, match="tiles"):
        convolution(x[..., :12], packed, bias, 32, 3)
    sizes = (1, 16, 16, 32, 32, 3, 1)
    for wrong in ((0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 1, 0)):
        with pytest.raises(ValueError, match="null"):
            _native.module.convolution(*wrong, *sizes)
    with pytest.raises(ValueError, match="thread"):
        _native.module.convolution(1, 1, 1, 1, *sizes[:-1], 0)
    with pytest.raises(ValueError, match="overflow"):
        _native.module.convolution(1, 1, 1, 1, 2**40, 2**20, 16, 32, 32, 3, 1)


def test_weights_without_panels_are_refused():
    with pytest.raises(ValueError, match="33"):
        panels(torch.zeros(32, 33, 3, 3))


@needs_tiles
def test_torch_knows_the_operation():
    x, weight, bias = call((1, 32, 16, 16), 64, 3)
    args = (x, panels(weight), bias, 64, 3)
    torch.library.opcheck(torch.ops.ctm_fast.convolution.default, args)
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in args]
        found = convolution(*fakes)
    assert found.shape == (1, 64, 16, 16)
