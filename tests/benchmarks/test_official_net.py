"""The published arrangement of the networks answers what ours answer."""

import pytest
import torch

from benchmarks import networks
from benchmarks.official_net import OfficialNet

from .tiny_networks import TINY


def answers(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    exactly = networks.network(name).double()
    x, *others = networks.inputs(exactly, 3)
    with torch.no_grad():
        net = exactly if dtype == torch.float64 else networks.network(name)
        return OfficialNet(net, dtype)(x.to(dtype), *others), exactly(x.double(), *others)


@pytest.mark.parametrize("name", [*TINY, "digits", "ctm-digits"])
def test_it_answers_the_same_in_float64(name: str, tiny_presets: None) -> None:
    found, expected = answers(name, torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", ["ctm-tiny-song", "ctm-tiny-adm"])
def test_it_computes_in_the_dtype_that_is_asked_for(
    name: str,
    dtype: torch.dtype,
    allowed: float,
    tiny_presets: None,
) -> None:
    found, expected = answers(name, dtype)
    assert found.dtype == dtype
    error = (found.double() - expected).norm() / expected.norm()
    assert 0 < error < allowed


@pytest.mark.parametrize("name", ["ctm-tiny-ncsnpp", "ctm-tiny-adm"])
def test_gradients_are_the_same(name: str, tiny_presets: None) -> None:
    net = networks.network(name).double().requires_grad_(True)
    official = OfficialNet(net, torch.float64)
    x, *others = networks.inputs(net, 2)
    weight = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for module in (net, official):
        (module(x.double(), *others) * weight).sum().backward()
    own = dict(net.named_parameters())
    for part, parameter in official.source.named_parameters():
        expected = own[part].grad
        if expected is None:
            assert parameter.grad is None, part
        else:
            torch.testing.assert_close(parameter.grad, expected, rtol=1e-8, atol=1e-10)


def test_it_is_arranged_as_published() -> None:
    net = networks.network("ctm-digits")
    official = OfficialNet(net, torch.bfloat16)
    weights = [p for p in official.parameters() if p.ndim == 4]
    assert all(p.is_contiguous() and p.dtype == torch.float32 for p in weights)
    assert official.last_layer is official.source.last_layer
    x, *others = networks.inputs(net, 1)
    assert official(x, *others).is_contiguous()


def test_every_layer_of_the_network_matters() -> None:
    net = networks.network("ctm-digits")
    x, *others = networks.inputs(net, 2)
    with torch.no_grad():
        before = net(x, *others)
        for part, parameter in net.named_parameters():
            kept = parameter.clone()
            parameter.mul_(1.5)
            assert (net(x, *others) - before).norm() > 1e-4 * before.norm(), part
            parameter.copy_(kept)
