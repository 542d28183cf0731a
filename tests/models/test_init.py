"""Initial weights."""

import math

import pytest
import torch
from torch import nn

from ctm_fast.models.init import constant, initialise, normal, uniform, xavier_uniform


def filled(draw, *shape):
    tensor = torch.empty(*shape)
    draw(tensor, torch.Generator().manual_seed(0))
    return tensor


def test_distributions():
    assert filled(constant(0.5), 3).tolist() == [0.5] * 3
    assert filled(normal(2.0), 20000).std().item() == pytest.approx(2.0, rel=0.03)
    values = filled(uniform(0.3), 20000)
    assert 0.29 < values.max() <= 0.3 and -0.3 <= values.min() < -0.29
    values = filled(xavier_uniform(0.5), 40, 20, 3, 3)
    bound = 0.5 * math.sqrt(6 / (60 * 9))
    assert values.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert values.abs().max().item() <= bound * (1 + 1e-6)


def rule(name):
    return constant(0.0) if name.endswith("bias") else uniform(1.0)


def test_a_parameter_depends_on_seed_and_name_only():
    def pair(seed, *names):
        net = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
        initialise(net, seed, rule)
        return net.state_dict()

    short, long, other = pair(0, "a"), pair(0, "b", "a"), pair(1, "a")
    assert torch.equal(short["a.weight"], long["a.weight"])
    assert not torch.equal(long["a.weight"], long["b.weight"])
    assert not torch.equal(short["a.weight"], other["a.weight"])
    assert not short["a.bias"].any()


def test_global_random_state_is_not_touched():
    net = nn.Linear(4, 4)
    before = torch.get_rng_state()
    initialise(net, 0, rule)
    assert torch.equal(torch.get_rng_state(), before)


def test_meta_networks_are_left_alone():
    initialise(nn.Linear(4, 4, device="meta"), 0, rule)
