"""The counted work agrees with the published figures; the measured rate is one of this machine."""

import pytest
import torch
from torch import nn

from benchmarks import flops as module
from benchmarks.flops import counted, flops, matmul_rate
from ctm_fast import models
from ctm_fast.denoiser import Denoiser


def on_meta(name: str, **overrides: object) -> nn.Module:
    with torch.device("meta"):
        return models.build(name, **overrides)


def test_published_figures() -> None:
    assert 219.3e9 <= flops(on_meta("adm-imagenet64")) <= 219.4e9
    # Skips are projected before they are doubled, in a quarter of the work: 256 channels, twice.
    saved = sum(2 * 256 * 256 * (3 / 4) * pixels for pixels in (16 * 16, 32 * 32))
    assert flops(on_meta("ddpmpp-cifar10")) + saved == pytest.approx(42.39e9, rel=3e-4)


def test_work_grows_with_the_batch() -> None:
    net = models.build("digits")
    assert flops(net, 3) == pytest.approx(3 * flops(net))


def test_a_small_network_by_hand() -> None:
    layer = nn.Conv2d(3, 5, 3, padding=1, device="meta")
    x = torch.empty(2, 3, 8, 8, device="meta")
    assert counted(lambda: layer(x)) == 2 * 2 * 64 * 5 * 3 * 9


def test_attention_counts_both_of_its_products() -> None:
    plain, attending = on_meta("digits"), on_meta("digits", attn_resolutions=(8,))
    pixels, width = 64, 32
    blocks = 2  # the encoder's, and the last one of the decoder
    projections = 2 * pixels * width * (3 * width + width)
    products = 2 * 2 * pixels * pixels * width
    assert flops(attending) - flops(plain) == blocks * (projections + products)


def test_a_backward_is_twice_a_forward_but_for_the_image() -> None:
    net = on_meta("digits")
    first_layer = 2 * 64 * 32 * 1 * 9
    linear_of_inputs = flops(net, backward=True) - (3 * flops(net) - first_layer)
    # Nor is there a gradient of the noise level and of the class.
    assert -0.01 * flops(net) < linear_of_inputs <= 0


def test_a_destination_is_counted() -> None:
    assert flops(on_meta("digits", destination=True)) > flops(on_meta("digits"))


def test_a_denoiser_is_its_network() -> None:
    net = models.build("digits").to(torch.bfloat16)
    assert flops(Denoiser(net), 2) == flops(net, 2)


def test_unknown_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="Linear is not known"):
        flops(nn.Linear(2, 2))


def test_the_rate_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.SIZES, "cpu", (64, 128))
    module._matmul_rate.cache_clear()
    first = matmul_rate(torch.float32)
    assert 1e6 < first < 1e16
    assert matmul_rate(torch.float32) == first
    assert module._matmul_rate.cache_info().hits == 1


def test_the_rate_of_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown device 'tpu'"):
        matmul_rate(torch.float32, "tpu")


@pytest.mark.gpu
def test_a_gpu_has_a_rate() -> None:
    assert matmul_rate(torch.bfloat16, "cuda") > 1e13
