"""Convolutions with packed weights."""

import copy
import pickle

import pytest
import torch
from torch import nn

from ctm_fast.inference import packed
from ctm_fast.inference.packed import PackedConv2d, pack_convolutions

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def conv(dtype=torch.float32, seed=0, inner=6, outer=10, size=3, **options):
    torch.manual_seed(seed)
    layer = nn.Conv2d(inner, outer, size, padding=size // 2, **options)
    return layer.to(dtype).requires_grad_(False)


def image(batch, dtype=torch.float32, layout=torch.channels_last):
    return torch.randn(batch, 6, 8, 7).to(dtype).to(memory_format=layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "options", [{}, {"size": 1}, {"bias": False}, {"groups": 2}, {"stride": 2}]
)
@pytest.mark.parametrize("batch", [1, 3, 5])
def test_it_equals_the_convolution(dtype, layout, options, batch):
    plain = conv(dtype, **options)
    layer, x = PackedConv2d(plain), image(batch, dtype, layout)
    expected = conv(torch.float64, **options)(x.double())
    bound = 2 * (plain(x).double() - expected).abs().max() + 1e-12
    for _ in range(2):
        assert (layer(x).double() - expected).abs().max() <= bound
    assert layer(x).dtype == dtype


def test_it_packs_one_weight_for_each_of_a_few_shapes():
    assert packed.ABSENT is None
    layer = PackedConv2d(conv())
    for batch in range(1, packed.MOST + 3):
        x = image(batch)
        layer(x)
        kept = layer._packed(x)
        assert kept is layer._packed(x)
        assert (kept is None) == (batch > packed.MOST)
        assert kept is None or kept.weight.is_mkldnn
    assert len(layer._packs) == packed.MOST


def test_a_changed_weight_is_packed_again():
    layer, other = PackedConv2d(conv()), conv(seed=1)
    x = image(2)
    layer(x)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), other(x))
    layer.weight.mul_(2)
    doubled = nn.functional.conv2d(x, 2 * other.weight, other.bias, padding=1)
    torch.testing.assert_close(layer(x), doubled)
    layer.bfloat16()
    torch.testing.assert_close(layer(x.bfloat16()).float(), doubled, rtol=0.05, atol=0.05)


def test_gradients_of_the_input():
    plain = conv()
    layer = PackedConv2d(plain)
    a, b = (image(2).requires_grad_() for _ in range(2))
    with torch.no_grad():
        b.copy_(a)
        layer(a)
    layer(a).square().sum().backward()
    plain(b).square().sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_trained_weights_are_not_packed():
    layer = PackedConv2d(conv().requires_grad_(True))
    layer(image(2)).sum().backward()
    assert layer.weight.grad is not None
    assert layer._packs == {}


@pytest.mark.parametrize("reason", ["dtype", "private operations", "padding mode"])
def test_what_cannot_be_packed_is_the_plain_convolution(reason, monkeypatch):
    dtype = torch.float64 if reason == "dtype" else torch.float32
    if reason == "private operations":
        monkeypatch.setattr(packed, "ABSENT", "gone")
    plain = conv(dtype, padding_mode="reflect" if reason == "padding mode" else "zeros")
    layer, x = PackedConv2d(plain), image(2, dtype)
    assert torch.equal(layer(x), plain(x))
    assert all(kept is None for _, kept in layer._packs.values())


def test_copies_and_pickles_pack_for_themselves():
    layer, x = PackedConv2d(conv()), image(2)
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._packs == {}
        assert torch.equal(twin(x), expected)
        assert twin.weight.data_ptr() != layer.weight.data_ptr()


def test_hooks_and_names_stay():
    net = nn.Sequential(conv(), nn.SiLU(), nn.ModuleDict({"last": conv(inner=10, outer=6)}))
    names, seen = list(net.state_dict()), []
    net[0].register_forward_hook(lambda *_: seen.append("forward"))
    net[0].register_forward_pre_hook(lambda *_: seen.append("before"))
    pack_convolutions(net)
    net[0](image(2))
    assert seen == ["before", "forward"]
    assert list(net.state_dict()) == names
    assert isinstance(net[0], PackedConv2d) and isinstance(net[2]["last"], PackedConv2d)
    again = net[0]
    assert pack_convolutions(net)[0] is again
    assert repr(again).startswith("PackedConv2d(6, 10")


def test_it_compiles_to_the_plain_convolution():
    layer, x = PackedConv2d(conv()), image(2)
    expected = layer(x)
    found = torch.compile(layer, backend="eager")(x)
    torch.testing.assert_close(found, expected)


def test_it_runs_on_tiles_where_it_can(monkeypatch):
    shapes, plain = [], conv(torch.bfloat16, inner=32, outer=64)
    layer = PackedConv2d(plain)
    monkeypatch.setattr(packed, "fits", lambda *given: shapes.append(given) or True)
    monkeypatch.setattr(packed, "convolution", lambda x, *rest: ("tiles", x.shape, *rest[2:]))
    for side in (8, 16, 8, 32, 64):
        x = torch.randn(1, 32, side, side).bfloat16()
        found = layer(x)
        assert side == 64 or found == ("tiles", x.shape, 64, 3)
    weights = {id(way.weight) for _, way in layer._packs.values()}
    assert len(weights) == 1, "tiles read one order whatever the size"
    assert shapes == [(torch.Size([1, 32, s, s]), torch.Size([64, 32, 3, 3])) for s in (8, 16, 32)]


@pytest.mark.parametrize("options", [{"stride": 2}, {"groups": 2}, {"dtype": torch.float32}])
def test_other_convolutions_do_not_run_on_tiles(options, monkeypatch):
    monkeypatch.setattr(packed, "fits", lambda *given: True)
    layer = PackedConv2d(conv(**{"dtype": torch.bfloat16, "inner": 64, "outer": 64, **options}))
    layer(torch.randn(1, 64, 16, 16).to(layer.weight.dtype))
    assert not any(isinstance(way, packed.Tiles) for _, way in layer._packs.values())
