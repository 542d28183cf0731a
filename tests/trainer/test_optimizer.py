"""The fused optimizers: equal to torch's, with whom they share their state."""

import copy

import pytest
import torch
from torch import nn

from ctm_fast.kernels import _native
from ctm_fast.trainer import TrainConfig
from ctm_fast.trainer.config import OPTIMIZERS
from ctm_fast.trainer.optimizer import FUSED, FusedAdam, FusedRAdam

PAIRS = [(FusedRAdam, torch.optim.RAdam), (FusedAdam, torch.optim.Adam)]
pairs = pytest.mark.parametrize(("fused", "plain"), PAIRS, ids=["radam", "adam"])


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1), nn.Flatten(), nn.Linear(16, 3))
    return layers.to(memory_format=torch.channels_last)


def advance(net: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    """Steps with random gradients; now and then one weight has none."""
    for step in range(first, last):
        torch.manual_seed(100 + step)
        for i, p in enumerate(net.parameters()):
            p.grad = None if (i, step % 3) == (2, 1) else torch.randn(p.shape).to(p)
        optimizer.step()


def assert_alike(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pairs
def test_fifty_steps_are_those_of_torch(fused, plain):
    nets = [network(), network()]
    for net, kind in zip(nets, (fused, plain)):
        optimizer = kind(net.parameters(), lr=0.01, betas=(0.8, 0.99), eps=1e-6)
        advance(net, optimizer, 0, 50)
    assert_alike(*nets)


@pairs
def test_state_goes_to_torch_and_back(fused, plain):
    nets = [network(), network()]
    kinds = [(fused, plain, fused), (plain, fused, plain)]
    for net, order in zip(nets, kinds):
        state = None
        for k, kind in enumerate(order):
            optimizer = kind(net.parameters(), lr=0.01)
            if state is not None:
                optimizer.load_state_dict(state)
            advance(net, optimizer, 6 * k, 6 * k + 6)
            state = optimizer.state_dict()
            assert {key for s in state["state"].values() for key in s} == {
                *("step", "exp_avg", "exp_avg_sq")
            }
            assert all(s["step"].shape == () for s in state["state"].values())
    assert_alike(*nets)


@pairs
def test_a_loaded_state_continues_bit_by_bit(fused, plain):
    whole, pieces = network(), network()
    advance(whole, fused(whole.parameters(), lr=0.01), 0, 9)
    optimizer = fused(pieces.parameters(), lr=0.01)
    advance(pieces, optimizer, 0, 4)
    state = copy.deepcopy(optimizer.state_dict())
    resumed = fused(pieces.parameters(), lr=0.01)
    resumed.load_state_dict(state)
    advance(pieces, resumed, 4, 9)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), pieces.parameters()))
    resumed.load_state_dict(state)
    assert float(next(iter(resumed.state.values()))["step"]) == 4


def test_a_copy_is_independent_and_goes_on():
    net = network()
    optimizer = FusedRAdam(net.parameters(), lr=0.01)
    advance(net, optimizer, 0, 3)
    both = copy.deepcopy((net, optimizer))
    advance(net, optimizer, 3, 8)
    advance(*both, 3, 8)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), both[0].parameters()))
    assert float(next(iter(both[1].state.values()))["step"]) == 8


def test_averages_follow():
    net = network()
    start = [p.detach().clone() for p in net.parameters()]
    averages = [[p.clone() for p in start] for _ in range(2)]
    optimizer = FusedAdam(net.parameters(), lr=0.1, averages=averages)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(decays=(0.0, 0.75))
    for p, old, near, far in zip(net.parameters(), start, *averages):
        assert torch.equal(near, p.detach())
        torch.testing.assert_close(far, 0.75 * old + 0.25 * p.detach())


def test_closure_norm_and_loss_scale():
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = FusedAdam([weight], lr=0.1, betas=(0.0, 0.0))

    def closure() -> torch.Tensor:
        loss = 8 * weight.square().sum() / 2
        loss.backward()
        return loss.detach()

    norm = torch.tensor(5.0)
    assert float(optimizer.step(closure, norm=norm, max_norm=1.0, loss_scale=8.0)) == 100
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], torch.tensor([0.6, 0.8]))


def test_what_is_refused():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = FusedAdam([weight])
    with pytest.raises(ValueError, match="one group"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(ValueError, match="every average needs 1 tensors"):
        FusedAdam([weight], averages=[[]])
    with pytest.raises(ValueError, match="learning rate"):
        FusedAdam([weight], lr=-1.0)
    other = torch.optim.Adam([weight], weight_decay=0.1)
    optimizer.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"no weight_decay; got 0.1"):
        optimizer.step()


@pytest.mark.skipif(_native.ABSENT is not None, reason=str(_native.ABSENT))
def test_a_step_makes_as_many_calls_for_few_weights_as_for_many():
    counts = []
    for count in (2, 30):
        weights = [nn.Parameter(torch.ones(3)) for _ in range(count)]
        optimizer = FusedRAdam(weights, averages=[[w.detach().clone() for w in weights]])
        for w in weights:
            w.grad = torch.ones(3)
        optimizer.step(decays=(0.5,))
        with torch.profiler.profile() as profile:
            optimizer.step(decays=(0.5,))
        counts.append(sum(event.count for event in profile.key_averages()))
    assert counts[0] == counts[1]


def test_every_name_of_the_config_has_its_optimizer():
    assert set(FUSED) == set(OPTIMIZERS)
    assert TrainConfig().optimizer in FUSED


@pytest.mark.gpu
@pairs
def test_on_a_gpu_steps_are_counted_on_the_device(fused, plain):
    nets = [network().cuda(), network().cuda()]
    optimizers = [kind(net.parameters(), lr=0.01) for net, kind in zip(nets, (fused, plain))]
    for net, optimizer in zip(nets, optimizers):
        advance(net, optimizer, 0, 8)
    assert_alike(*nets)
    state = optimizers[0].state_dict()
    assert all(s["step"].is_cuda for s in state["state"].values())
    resumed = fused(nets[0].parameters(), lr=0.01)
    resumed.load_state_dict(optimizers[1].state_dict())
    for net, optimizer in zip(nets, (resumed, optimizers[1])):
        advance(net, optimizer, 8, 16)
    assert_alike(*nets)
