"""Random projections: formula, sizes, seeds, buffers."""

import pytest
import torch
from torch.nn import functional

from ctm_fast.models.projector import FrozenConv, Projector, TokenPyramid, check_maps
from ctm_fast.rng import stream

PUBLISHED = ((24, 56), (40, 28), (112, 14), (320, 7))
ODD = ((5, 9), (3, 5), (7, 3), (2, 3), (4, 1))


def maps(shapes, batch=2, dtype=torch.float32) -> list[torch.Tensor]:
    g = stream(5)
    return [
        torch.randn(batch, c, s, s, generator=g, dtype=torch.float64).to(dtype) for c, s in shapes
    ]


def test_published_sizes_and_channels() -> None:
    projector = Projector(PUBLISHED, (0,))
    assert projector.maps == ((64, 112), (64, 56), (128, 28), (256, 14))
    assert [conv.weight.shape[0] for conv in projector.channel_mixing] == [64, 128, 256, 512]
    found = projector(maps(PUBLISHED))
    assert [tuple(m.shape) for m in found] == [(2, c, s, s) for c, s in projector.maps]


@pytest.mark.parametrize("shapes", [ODD, ((3, 8),), ((32, 8), (64, 4), (64, 2)), ((4, 1), (4, 1))])
def test_any_number_of_maps_of_any_size(shapes) -> None:
    projector = Projector(shapes, (1,), width=4)
    found = projector(maps(shapes))
    assert [tuple(m.shape[1:]) for m in found] == [(c, s, s) for c, s in projector.maps]
    wide = [torch.randn(2, c, s, s + 2) for c, s in shapes]
    assert projector(wide)[0].shape[2:] == (2 * shapes[0][1], 2 * shapes[0][1] + 4)


def test_formula_with_the_convolution_after_the_resize() -> None:
    projector = Projector(ODD, (2,), width=3).double()
    given, above, expected = maps(ODD, dtype=torch.float64), 0, []
    for i in reversed(range(len(ODD))):
        size = (ODD[i - 1][1],) * 2 if i else (2 * ODD[0][1],) * 2
        mixed = functional.interpolate(
            projector.channel_mixing[i](given[i]) + above, size, mode="bilinear", align_corners=True
        )
        above = projector.scale_mixing[i](mixed)
        expected.insert(0, above)
    for one, other in zip(projector(given), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_seeds() -> None:
    one, same, other = (Projector(ODD, (seed, 7), width=4).state_dict() for seed in (0, 0, 1))
    assert one.keys() == other.keys() and len(one) == 20
    for name, values in one.items():
        assert torch.equal(values, same[name]) and not torch.equal(values, other[name])
        assert values.unique().numel() == values.numel(), "weights repeat"


def test_everything_is_a_saved_buffer_and_gradients_reach_the_maps() -> None:
    projector = Projector(ODD, (0,), width=4)
    assert list(projector.parameters()) == []
    given = [m.requires_grad_() for m in maps(ODD)]
    found = projector(given)
    sum(m.square().sum() for m in found).backward()
    assert all((m.grad != 0).any() for m in given)
    fresh = Projector(ODD, (1,), width=4)
    fresh.load_state_dict(projector.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(fresh(given), found))


def test_maps_of_another_dtype_are_cast() -> None:
    projector = Projector(ODD, (0,), width=4)
    assert {m.dtype for m in projector(maps(ODD, dtype=torch.bfloat16))} == {torch.float32}
    assert {m.dtype for m in projector.double()(maps(ODD))} == {torch.float64}


def test_frozen_conv_bounds_and_forms() -> None:
    plain = FrozenConv(6, 40, stream(0), kernel=3, stride=2, padding=1, gain=2.0)
    bound = 2 / (6 * 9) ** 0.5
    assert 0.9 * bound < plain.weight.abs().max() <= bound
    x = torch.randn(2, 6, 5, 5)
    expected = functional.conv2d(x, plain.weight, plain.bias, stride=2, padding=1)
    assert torch.equal(plain(x), expected)
    up = FrozenConv(6, 10, stream(0), kernel=4, stride=4, upwards=True)
    assert up(x).shape == (2, 10, 20, 20)
    expected = torch.einsum("bchw,cdij->bdhiwj", x, up.weight).reshape(2, 10, 20, 20)
    torch.testing.assert_close(up(x), expected + up.bias.reshape(10, 1, 1), atol=1e-5, rtol=1e-5)


def test_token_pyramid() -> None:
    pyramid = TokenPyramid(768, (3,))
    assert pyramid.widths == (96, 192, 384, 768)
    found = pyramid([torch.randn(1, 768, 14, 14)] * 4)
    assert [tuple(m.shape[1:]) for m in found] == [
        (96, 56, 56),
        (192, 28, 28),
        (384, 14, 14),
        (768, 7, 7),
    ]
    assert list(pyramid.parameters()) == [] and len(pyramid.state_dict()) == 14
    assert torch.equal(pyramid.resize[0].weight, TokenPyramid(768, (3,)).resize[0].weight)


def test_bad_input() -> None:
    for shapes in ((), ((3, 0),), ((3, 4), (3, 8))):
        with pytest.raises(ValueError, match="finest first"):
            check_maps(shapes)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        Projector(ODD, (0,), width=0)
    with pytest.raises(ValueError, match=r"need feature maps of \[5, 3, 7, 2, 4\] channels"):
        Projector(ODD, (0,))(maps(ODD)[:4])
    with pytest.raises(ValueError, match="finest first"):
        Projector(ODD, (0,))(maps(ODD)[::-1])
