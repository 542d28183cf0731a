"""8-bit products against their definition, and what a network with them may lose."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from ctm_fast import models
from ctm_fast.inference import fp8
from ctm_fast.inference.fp8 import (
    Fp8Pointwise,
    emulated_product,
    fp8_pointwise,
    product,
    quantise,
    signal_to_noise,
    why_not,
)

BFLOAT = torch.bfloat16
here = pytest.mark.skipif(why_not("cpu") is not None, reason=f"{why_not('cpu')}")
EVERY_DEVICE = [pytest.param("cpu", marks=here), pytest.param("cuda", marks=pytest.mark.gpu)]


def emulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of the file does not need the machine's 8-bit products."""

    def stand_in(*args: Tensor | None) -> Tensor:
        return emulated_product(*args).to(BFLOAT)  # type: ignore[arg-type]

    monkeypatch.setattr(fp8, "product", stand_in)
    monkeypatch.setattr(fp8, "why_not", lambda device: None)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(**overrides: object) -> nn.Module:
    """Small, with weights everywhere: attention at 4x4 and 8x8, skips in the decoder."""
    net = models.build("digits", model_channels=16, attn_resolutions=(4, 8), **overrides)
    for seed, weight in enumerate(net.parameters()):
        if weight.ndim > 1:
            weight.data = drawn(*weight.shape, seed=seed) * weight[0].numel() ** -0.5
    return net.eval().requires_grad_(False).to(BFLOAT).to(memory_format=torch.channels_last)


def run(net: nn.Module, images: Tensor) -> Tensor:
    return net(images.to(BFLOAT), torch.linspace(-1, 1, len(images)))


def test_numbers_of_three_bits_survive() -> None:
    rows = torch.tensor([[1.0, 448.0, -0.0625, 0.0], [7.0, -3.5, 1.75, 0.875]])
    quantised, scale = quantise(rows)
    assert quantised.dtype == torch.float8_e4m3fn and scale.shape == (2, 1)
    assert torch.equal(quantised.float() * scale, rows)


def test_rounding_error_is_that_of_four_significant_bits() -> None:
    rows = drawn(64, 256) * torch.logspace(-20, 20, 64)[:, None]
    quantised, scale = quantise(rows)
    error = (quantised.float() * scale - rows).abs()
    # Below 2^-6 of the format numbers are evenly spaced by 2^-9.
    assert (error <= torch.maximum(rows.abs() / 16, scale * 2**-10) * 1.0001).all()
    assert 25 < signal_to_noise(rows[0], rows[0] + error[0]) < 40


def test_rows_of_zeros_stay() -> None:
    quantised, scale = quantise(torch.zeros(3, 16))
    assert not quantised.float().any() and torch.isfinite(scale).all()


@pytest.mark.parametrize("device", EVERY_DEVICE)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sizes", [(1, 16, 16), (37, 64, 48), (300, 512, 256)])
def test_product_is_its_definition(sizes: tuple[int, int, int], bias: bool, device: str) -> None:
    m, k, n = sizes
    a, b = drawn(m, k).to(device), drawn(n, k, seed=1).to(device)
    args = (*quantise(a), *quantise(b), drawn(n, seed=2).to(device, BFLOAT) if bias else None)
    found, exact = product(*args), emulated_product(*args)
    assert found.shape == (m, n) and found.dtype == BFLOAT
    # One rounding to bfloat16; sums and the bias are float32, or the bias is rounded before.
    size = exact.abs() + (0 if args[4] is None else args[4].double().abs())
    error = (found.double() - exact).abs()
    assert (error <= size * 2**-8 * 1.01 + 1e-5 * k**0.5).all()


@pytest.mark.parametrize("device", EVERY_DEVICE)
@pytest.mark.parametrize("bias", [False, True])
def test_layer_is_nearly_the_convolution(bias: bool, device: str) -> None:
    conv = nn.Conv2d(64, 96, 1, bias=bias).to(device, BFLOAT).requires_grad_(False)
    layer = Fp8Pointwise(conv)
    x = drawn(2, 64, 5, 3).to(device, BFLOAT).contiguous(memory_format=torch.channels_last)
    exact, found = conv(x), layer(x)
    assert found.shape == exact.shape and found.dtype == BFLOAT
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert 26 < signal_to_noise(exact, found) < 32


def test_images_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    layer = Fp8Pointwise(nn.Conv2d(32, 32, 1).to(BFLOAT).requires_grad_(False))
    x = drawn(2, 32, 4, 4).to(BFLOAT)
    x[1] *= 1000
    assert torch.equal(layer(x)[:1], layer(x[:1]))


def test_gradients_take_the_plain_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    conv = nn.Conv2d(32, 16, 1).to(BFLOAT).requires_grad_(False)
    layer = Fp8Pointwise(conv)
    x = drawn(2, 32, 4, 4).to(BFLOAT).requires_grad_()
    assert torch.equal(layer(x), conv(x))
    (found,) = torch.autograd.grad(layer(x).sum(), x)
    (exact,) = torch.autograd.grad(conv(x).sum(), x)
    assert torch.equal(found, exact)
    with torch.no_grad():
        assert not torch.equal(layer(x), conv(x))


def test_empty_batches_and_casts(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    conv = nn.Conv2d(32, 16, 1).to(BFLOAT).requires_grad_(False)
    layer = Fp8Pointwise(conv)
    before = layer(drawn(1, 32, 2, 2).to(BFLOAT))
    assert layer(torch.empty(0, 32, 4, 4, dtype=BFLOAT)).shape == (0, 16, 4, 4)
    assert list(layer.state_dict()) == ["weight", "bias"]
    again = copy.deepcopy(layer).float()
    assert again.quantised.dtype == torch.float8_e4m3fn and again.scale.dtype == torch.float32
    assert again(drawn(1, 32, 2, 2)).dtype == torch.float32
    assert torch.equal(again.to(BFLOAT)(drawn(1, 32, 2, 2).to(BFLOAT)), before)


def test_changed_weights_are_quantised_again(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    conv = nn.Conv2d(32, 16, 1, bias=False).to(BFLOAT).requires_grad_(False)
    layer, x = Fp8Pointwise(conv), drawn(1, 32, 2, 2).to(BFLOAT)
    before = layer(x)
    conv.weight.mul_(2)
    assert torch.equal(layer(x), before * 2)
    layer.load_state_dict({"weight": conv.weight / 2})
    assert torch.equal(layer(x), before)


def test_a_network_keeps_its_output(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    net, images = network(), drawn(4, 1, 8, 8)
    plain = run(net, images)
    # A tiny network loses more than one of the published sizes, 24 to 27 dB.
    snr = fp8_pointwise(net, lambda: run(net, images), min_snr=15)
    kinds = {name.split(".")[-1] for name, m in net.named_modules() if isinstance(m, Fp8Pointwise)}
    assert kinds == {"qkv", "proj", "skip"}
    assert not [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert 15 < snr < 30 and snr == signal_to_noise(plain, run(net, images))
    # The error comes from 8 bits, not from a wrong layer: a new batch is as good.
    other = drawn(4, 1, 8, 8, seed=9)
    assert abs(snr - signal_to_noise(run(network(), other), run(net, other))) < 3


def test_a_network_that_loses_too_much_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    net, images = network(), drawn(4, 1, 8, 8)
    plain = run(net, images)
    with pytest.raises(ValueError, match=r"dB between signal and error, at least 60 dB"):
        fp8_pointwise(net, lambda: run(net, images), min_snr=60)
    assert torch.equal(run(net, images), plain)
    monkeypatch.setattr(fp8, "signal_to_noise", lambda *_: math.nan)
    with pytest.raises(ValueError, match="nan dB"):
        fp8_pointwise(net, lambda: run(net, images))


def test_what_cannot_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = network(), drawn(1, 1, 8, 8)
    monkeypatch.setattr(fp8, "why_not", lambda device: "the reason")
    with pytest.raises(ValueError, match="fp8 cannot run here: the reason"):
        fp8_pointwise(net, lambda: run(net, images))
    with pytest.raises(ValueError, match=r"in torch.bfloat16; this one is in torch.float32"):
        fp8_pointwise(network().float(), lambda: images)
    with pytest.raises(ValueError, match="no 1x1 convolution"):
        fp8_pointwise(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3)), lambda: images)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    why_not.cache_clear()
    assert why_not("mps") == "it needs a CPU or a CUDA GPU, not mps"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert why_not("cuda") == "it needs compute capability 8.9 or higher; this GPU has 8.0"
    monkeypatch.setattr(fp8, "product", lambda *_: (_ for _ in ()).throw(RuntimeError("no\nfp8")))
    assert "has no such product for cpu (no)" in str(why_not("cpu"))
    why_not.cache_clear()


def test_decibels() -> None:
    exact = torch.tensor([3.0, 4.0])
    assert signal_to_noise(exact, exact) == math.inf
    assert signal_to_noise(exact, exact * 1.1) == pytest.approx(20, abs=1e-3)
    assert signal_to_noise(torch.zeros(2), exact) < -100
    assert math.isnan(signal_to_noise(exact, exact * math.nan))


@pytest.mark.gpu
def test_a_network_on_a_gpu() -> None:
    net, images = network().cuda(), drawn(8, 1, 8, 8).cuda()

    def output() -> Tensor:
        return net(images.to(BFLOAT), torch.linspace(-1, 1, 8, device="cuda"))

    if why_not("cuda") is not None:
        with pytest.raises(ValueError, match="fp8 cannot run here"):
            fp8_pointwise(net, output)
        return
    assert fp8_pointwise(net, output, min_snr=15) > 15
    graph, eager = torch.cuda.CUDAGraph(), output()
    with torch.no_grad(), torch.cuda.graph(graph):
        captured = output()
    graph.replay()
    assert torch.equal(captured, eager)
