"""Layers: resampling, normalisation, memory order."""

import math

import pytest
import torch
import torch.nn.functional as F

from ctm_fast.models.layers import (
    Constant,
    Conv2d,
    Resample,
    channels_last,
    group_norm,
    norm_act,
    norm_of_joined,
)
from tests.models import reference


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1), (1, 2, 5, 5, 2, 1)])
def test_resample_equals_the_filter_written_out(taps, up):
    x = draw(2, 3, 6, 8)
    expected = reference.resample(x, taps, up)
    assert torch.allclose(Resample(taps, up)(x), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("taps", [(), (1, 2, 1), (1, 3), (1, -1, -1, 1, 0, 0), (1, -1, -1, 1)])
def test_resample_refuses_other_filters(taps):
    with pytest.raises(ValueError, match="resample_filter"):
        Resample(taps, up=True)


@pytest.mark.parametrize(("channels", "least", "groups"), [(64, 1, 32), (64, 4, 16), (512, 4, 32)])
def test_number_of_groups(channels, least, groups):
    assert group_norm(channels, 1e-5, least).num_groups == groups


@pytest.mark.parametrize(("channels", "least"), [(3, 4), (48, 1), (144, 4)])
def test_groups_that_do_not_divide(channels, least):
    with pytest.raises(ValueError, match=f"{channels} channels"):
        group_norm(channels, 1e-5, least)


@pytest.mark.parametrize("kind", ["plain", "bias", "scale and shift"])
def test_norm_act_equals_its_formula(kind):
    x, weight, bias = draw(3, 8, 5, 4), draw(8, seed=1), draw(8, seed=2)
    norm = group_norm(8, 1e-3, 2).double()
    with torch.no_grad():
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
    one, two = draw(3, 8, seed=3), draw(3, 8, seed=4)
    start = x + one[:, :, None, None] if kind == "bias" else x
    expected = reference.normalise({"n.weight": weight, "n.bias": bias}, "n", start, 1e-3, 4)
    if kind == "scale and shift":
        expected = expected * (1 + one[:, :, None, None]) + two[:, :, None, None]
    expected = expected / (1 + torch.exp(-expected))
    given = {"plain": {}, "bias": {"bias": one}}.get(kind, {"scale": one, "shift": two})
    assert torch.allclose(norm_act(x, norm, **given), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("tail", [False, True])
def test_norm_of_joined_equals_its_formula(plus, tail):
    x, other, skip = draw(3, 8, 5, 4), draw(3, 8, 5, 4, seed=1), draw(3, 4, 5, 4, seed=2)
    norm = group_norm(12 if tail else 8, 1e-3, 2).double()
    y, joined = norm_of_joined(
        x, norm, other if plus else None, 0.7, skip if tail else None, act=False
    )
    expected = 0.7 * (x + other) if plus else x
    expected = torch.cat([expected, skip], 1) if tail else expected
    assert torch.allclose(joined, expected, rtol=1e-12)
    state = {"n." + name: value for name, value in norm.state_dict().items()}
    expected = reference.normalise(state, "n", joined, 1e-3, norm.num_groups)
    assert torch.allclose(y, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("offset", [0.0, 10.0, 100.0])
def test_norm_keeps_its_accuracy_where_the_mean_is_large(offset, with_bias):
    """Channels-last float32 on a CPU, one channel per group: the worst case."""
    x = draw(4, 32, 8, 8) + offset * draw(1, 32, 1, 1, seed=1)
    x = x.float().to(memory_format=torch.channels_last)
    bias = draw(4, 32, seed=2).float() if with_bias else None
    norm = group_norm(32, 1e-6, 1)
    found = norm_act(x, norm, bias=bias)
    start = x.double() if bias is None else x.double() + bias.double()[:, :, None, None]
    exact = norm_act(start, norm.double())
    # Without centring the error is 1e-4 at offset 10 and 1e-2 at offset 100.
    assert (found - exact).abs().max() < 2e-6 * (1 + offset)


def test_centring_takes_no_part_in_gradients():
    x = draw(2, 8, 4, 4, dtype=torch.float32).to(memory_format=torch.channels_last) + 3
    x32, x64 = x.clone().requires_grad_(), x.double().requires_grad_()
    norm = group_norm(8, 1e-5, 2)
    v = draw(2, 8, 4, 4, seed=1)
    (norm_act(x32, norm) * v.float()).sum().backward()
    (norm_act(x64, norm.double()) * v).sum().backward()
    assert torch.allclose(x32.grad.double(), x64.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last(channels):
    x = draw(2, channels, 4, 6)
    y = channels_last(x)
    assert torch.equal(x, y)
    assert y.stride() == (24 * channels, 1, 6 * channels, channels)
    assert channels_last(y).data_ptr() == y.data_ptr()
    if channels == 1:
        assert y.data_ptr() == x.data_ptr()


def test_constant_keeps_float32_and_survives_empty_memory():
    holder = torch.nn.Sequential(Constant([0.1, 0.2])).to(torch.bfloat16)
    expected = torch.tensor([0.1, 0.2])
    assert torch.equal(holder[0].value, expected)
    with torch.device("meta"):
        holder = torch.nn.Sequential(Constant([0.1, 0.2]))
    assert holder[0].value.is_meta
    assert torch.equal(holder.to_empty(device="cpu")[0].value, expected)
    assert holder.state_dict() == {}


def test_layers_do_not_draw_from_the_global_random_state():
    before = torch.get_rng_state()
    Conv2d(3, 5, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_convolution_keeps_the_size():
    x = torch.ones(1, 1, 4, 4)
    conv = Conv2d(1, 1, 3)
    torch.nn.init.ones_(conv.weight)
    torch.nn.init.zeros_(conv.bias)
    assert torch.equal(conv(x), F.conv2d(x, torch.ones(1, 1, 3, 3), padding=1))
    assert math.isclose(conv(x)[0, 0, 1, 1].item(), 9.0)
