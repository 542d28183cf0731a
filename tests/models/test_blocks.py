"""The residual block."""

import dataclasses

import pytest
import torch

from ctm_fast.models.blocks import BlockStyle, ConvResample, ResBlock, settled
from tests.models import reference

STYLE = BlockStyle(
    emb_channels=6,
    dropout=0.0,
    skip_scale=0.5**0.5,
    eps=1e-6,
    min_group=4,
    adaptive_scale=False,
    resample_filter=(1, 1),
    resample_proj=True,
    channels_per_head=0,
    destination=True,
)


def block(style=STYLE, inner=8, outer=16, seed=0, **options):
    layer = ResBlock(inner, outer, style, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return layer


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def output(layer, x, given, **parts):
    """What the block hands on, summed."""
    _, shortcut, branch = layer(x, given, **parts)
    return settled(shortcut, branch, layer.skip_scale)


def modulation(layer, emb, to=None):
    """What the network hands to a block, from its own affine layers."""
    rows = layer.affine(emb)
    if to is not None:
        rows = rows + layer.affine_to(to)
    return rows.chunk(2 if layer.adaptive_scale else 1, dim=1)


def published(layer, rename):
    """The block's state as NVlabs/edm names it; one head has rows (dim, {q, k, v})."""
    state = {}
    for name, value in layer.state_dict().items():
        if ".qkv." in f".{name}":
            value = value.reshape(3, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)
        state[f"{rename}.{name}".replace("_to.", "_s.")] = value
    return state


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("change", ["", "up", "down"])
@pytest.mark.parametrize("destination", [False, True])
def test_block_equals_its_formula(adaptive, taps, change, destination):
    style = dataclasses.replace(STYLE, adaptive_scale=adaptive, resample_filter=taps)
    layer = block(style, attention=True, **({change: True} if change else {}))
    x, emb, to = draw(3, 8, 4, 6), draw(3, 6, seed=1), draw(3, 6, seed=2)
    options = {"eps": 1e-6, "taps": taps, "adaptive": adaptive, "head": 0, "scale": 0.5**0.5}
    name = f"8x8_{change or 'block0'}"
    state = published(layer, name)
    expected = reference.edm_block(state, name, x, emb, to if destination else None, options)
    given = modulation(layer, emb, to if destination else None)
    found = output(layer, x, given)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(output(layer, x, given), found, rtol=1e-12)


def test_one_embedding_row_serves_the_batch():
    layer, x = block(), draw(3, 8, 4, 4)
    (row,) = modulation(layer, draw(1, 6, seed=1))
    assert torch.allclose(
        output(layer, x, [row]), output(layer, x, [row.expand(3, -1)]), rtol=1e-12
    )


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_first_bias_may_be_left_to_the_norm(adaptive):
    layer = block(dataclasses.replace(STYLE, adaptive_scale=adaptive))
    x, given = draw(3, 8, 4, 4), modulation(layer, draw(3, 6, seed=1))
    expected, seen = output(layer, x, given), []
    layer.bias_in_norm = True
    layer.conv0.register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(output(layer, x, given), expected, rtol=1e-10, atol=1e-12)
    assert not seen


def test_input_is_left_alone():
    layer, x = block(outer=8, attention=True), draw(3, 8, 4, 4)
    given = modulation(layer, draw(3, 6, seed=1))
    before = x.clone(), given[0].clone()
    with torch.no_grad():
        output(layer, x, given)
    assert torch.equal(x, before[0]) and torch.equal(given[0], before[1])


def test_backward_hooks_on_layers_work():
    layer, seen = block(), []
    layer.conv1.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs))
    x = draw(1, 8, 4, 4).requires_grad_()
    output(layer, x, modulation(layer, draw(1, 6))).sum().backward()
    assert len(seen) == 1


def test_dropout_only_in_training():
    layer = block(dataclasses.replace(STYLE, dropout=0.5))
    x, given = draw(3, 8, 4, 4), modulation(layer, draw(3, 6, seed=1))
    assert not torch.equal(output(layer, x, given), output(layer, x, given))
    layer.eval()
    assert torch.equal(output(layer, x, given), output(layer, x, given))


@pytest.mark.parametrize("channels_per_head", [32, 5])
def test_heads_must_divide_the_channels(channels_per_head):
    style = dataclasses.replace(STYLE, channels_per_head=channels_per_head)
    with pytest.raises(
        ValueError, match=f"16 channels does not divide into heads of about {channels_per_head}"
    ):
        ResBlock(8, 16, style, attention=True)
    assert ResBlock(8, 16, style, attention=False).num_heads == 0
    wide = dataclasses.replace(STYLE, channels_per_head=12)
    assert ResBlock(8, 16, wide, attention=True).num_heads == 1


def test_heads_may_be_counted_instead():
    style = dataclasses.replace(STYLE, num_heads=4)
    assert ResBlock(8, 16, style, attention=True).num_heads == 4
    with pytest.raises(ValueError, match="12 channels does not divide into 8 heads; change num_h"):
        ResBlock(8, 12, dataclasses.replace(style, num_heads=8), attention=True)
    assert ResBlock(8, 16, dataclasses.replace(style, max_groups=2)).norm0.num_groups == 2


@pytest.mark.parametrize("pad_after", [False, True])
@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("with_plus", [False, True])
def test_resampling_convolutions_equal_their_formula(pad_after, up, with_plus):
    style = dataclasses.replace(STYLE, conv_resampling=True, pad_after=pad_after)
    layer = ConvResample(8, style, up).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    x = draw(2, 8, 4, 6).to(memory_format=torch.channels_last).requires_grad_()
    plus = draw(2, 8, 4, 6, seed=1).to(memory_format=torch.channels_last) if with_plus else None
    entered, out, branch = layer(x, (), plus)
    whole = x if plus is None else (x + plus) * 0.5**0.5
    assert branch is None and torch.allclose(entered, whole, rtol=1e-6)
    assert out.is_contiguous(memory_format=torch.channels_last)
    # One pixel after the other.
    weight, bias = layer.conv.weight, layer.conv.bias
    rows = range(8) if up else range(2)
    wide = torch.nn.functional.pad(whole, (1, 1, 1, 1))
    expected = torch.zeros_like(out)
    for i in rows:
        for j in range(12) if up else range(3):
            for a in range(3):
                for b in range(3):
                    if up:
                        y, z = i + a - 1, j + b - 1
                        inside = 0 <= y < 8 and 0 <= z < 12
                        pixel = whole[:, :, y // 2, z // 2] if inside else 0 * whole[:, :, 0, 0]
                    else:
                        first = int(pad_after)
                        pixel = wide[:, :, 2 * i + a + first, 2 * j + b + first]
                    expected[:, :, i, j] += pixel @ weight[:, :, a, b].t()
    expected = expected + bias[:, None, None]
    assert torch.allclose(out, expected, rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    (by_hand,) = torch.autograd.grad(expected.sum(), x)
    assert torch.allclose(gradient, by_hand, rtol=1e-6, atol=1e-6)
