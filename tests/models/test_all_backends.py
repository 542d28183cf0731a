"""The networks on every backend of the kernels, and with packed weights: the same results."""

import copy
import dataclasses
import pickle

import pytest
import torch

from ctm_fast import kernels
from ctm_fast.models import net_from_config
from ctm_fast.models.unet import blocks_of
from tests.models.test_unet import CONFIGS, each, student
from tests.models.tiny import SONG, inputs, randomised


def results(net, given, dtype, **labels):
    """Output and all gradients of one pass, in float64."""
    x = given["x"].to(dtype).requires_grad_()
    level, to = given["c_noise"].float(), given["c_noise_to"].float()
    y = net(x, level, to if net.has_destination else None, **labels)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    named = {"x": x, **dict(net.named_parameters())}
    gradients = torch.autograd.grad(y, list(named.values()), weight, allow_unused=True)
    kept = {name: g.double() for name, g in zip(named, gradients) if g is not None}
    return {"y": y.detach().double(), **kept}


@each
@pytest.mark.parametrize("destination", [False, True])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_backend_gives_the_same_network(name, destination, labelled, dtype):
    config = dataclasses.replace(CONFIGS[name], destination=destination)
    net, given = randomised(config), inputs(config)
    labels = {"labels": given["classes"]} if labelled else {}
    if labelled and config.augment_dim:
        labels["augment_labels"] = given["augment"]
    exact = results(net, given, torch.float64, **labels)
    net.to(dtype)
    fast = results(net, given, dtype, **labels)
    with kernels.use_backend("reference"):
        slow = results(net, given, dtype, **labels)
    assert fast.keys() == slow.keys() == exact.keys()
    rounding = torch.finfo(dtype).eps
    for key, truth in exact.items():
        size = truth.abs().max()
        one, other = ((r[key] - truth).abs().max() / size for r in (fast, slow))
        # Errors of long sums vary by chance; a wrong term is off by more than all roundings.
        assert one < 4 * other + 8 * rounding, key
    assert any(not torch.equal(fast[key], slow[key]) for key in fast)


@each
def test_modulations_of_all_blocks_are_two_products_at_most(name):
    net, given = randomised(student(CONFIGS[name])).to(torch.bfloat16), inputs(CONFIGS[name])
    emb = net.embed(given["c_noise"], given["c_noise_to"], None, None)
    blocks = [*blocks_of(net.enc), *blocks_of(net.dec)]
    with torch.profiler.profile() as profile:
        modulations = list(net._modulations(blocks, *emb))
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["aten::addmm"] == 2 and "aten::mm" not in counts
    for block, modulation in zip(blocks, modulations, strict=True):
        rows = block.affine(emb[0]) + block.affine_to(emb[1])
        torch.testing.assert_close(torch.cat(modulation, 1), rows, rtol=0.02, atol=0.02)


def frozen(config):
    net = net_from_config(student(config)).to(torch.bfloat16).eval().requires_grad_(False)
    net.pack()
    return net


@each
def test_packing_changes_nothing(name):
    net, given = frozen(CONFIGS[name]), inputs(CONFIGS[name])
    plain = net_from_config(student(CONFIGS[name])).to(torch.bfloat16).eval()
    assert list(net.state_dict()) == list(plain.state_dict())
    args = (given["x"].bfloat16(), given["c_noise"], given["c_noise_to"], given["classes"])
    expected = plain(*args)
    assert torch.equal(net(*args), expected)
    copies = [copy.deepcopy(net), pickle.loads(pickle.dumps(net)), frozen(CONFIGS[name])]
    copies[2].load_state_dict(net.state_dict())
    for copied in copies:
        assert torch.equal(copied(*args), expected)
        copied.pack()
        assert torch.equal(copied(*args), expected)
    assert torch.equal(net.float().bfloat16()(*args), expected)


def test_a_packed_network_is_pickled_as_small_as_any_other():
    net = frozen(SONG)
    plain = net_from_config(student(SONG)).to(torch.bfloat16).requires_grad_(False)
    assert len(pickle.dumps(net)) < 1.05 * len(pickle.dumps(plain))
    first = net.enc["8x8"]["block0"].affine.weight
    assert first.untyped_storage().nbytes() > 5 * first.nbytes


def test_networks_in_training_are_not_packed():
    with pytest.raises(ValueError, match="freeze them first"):
        net_from_config(SONG).pack()
