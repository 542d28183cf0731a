"""What a signature says about how a callable is called."""

import functools

import pytest
import torch
from torch import nn

from ctm_fast.wrappers.calling import custom_call, module_of, parameters_of, signature_call


class EDM(nn.Module):
    def forward(self, x, sigma, class_labels=None, force_fp32=False, **model_kwargs):
        return x


class CTM(nn.Module):
    def forward(self, x, timesteps, y=None, s=None):
        return x


class FastGen(nn.Module):
    def forward(self, x_t, t, condition=None, r=None, return_features=False):
        return x_t


class Diffusers(nn.Module):
    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        return sample


class Library(nn.Module):
    def velocity(self, x, t, **extras):
        return x


class Parallel(nn.Module):
    """As DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *inputs, **kwargs):
        return self.module(*inputs, **kwargs)


@pytest.mark.parametrize(
    "net, two_times, labelled, written",
    [
        (lambda x, t: x, False, False, "net(x, t)"),
        (lambda a, b: a, False, False, "net(x, t)"),
        (lambda t, x: x, False, False, "net(t, x)"),
        (lambda *, x, t: x, False, False, "net(x=x, t=t)"),
        (lambda *args: args[0], False, False, "net(x, t)"),
        (lambda *args, **kwargs: args[0], True, False, "net(x, t, s)"),
        (lambda x, sigma, sigma_to: x, True, False, "net(x, t, s)"),
        (lambda x, sigma, t: x, True, False, "net(x, t, s)"),
        (lambda z, t, r: z, True, False, "net(x, t, s)"),
        (lambda y, t, u: y, True, False, "net(x, t, s)"),
        (lambda x, t, y: x, False, True, "net(x, t, labels)"),
        (lambda x, t, y: x, False, False, "net(x, t, labels)"),
        (lambda x, y, t: x, False, True, "net(x, labels, t)"),
        (EDM(), False, True, "net(x, t, labels)"),
        (EDM(), False, False, "net(x, t)"),
        (CTM(), True, True, "net(x, t, labels, s)"),
        (CTM(), True, False, "net(x, t, s=s)"),
        (CTM(), False, False, "net(x, t)"),
        (FastGen(), True, False, "net(x, t, r=s)"),
        (FastGen(), False, True, "net(x, t, labels)"),
        (Diffusers(), False, True, "net(x, t, labels)"),
        (Library().velocity, False, False, "net(x, t)"),
        (Parallel(CTM()), True, True, "net(x, t, labels, s)"),
        (functools.partial(CTM().forward, y=3), False, False, "net(x, t)"),
        (torch.compile(EDM(), backend="eager"), False, True, "net(x, t, labels)"),
        (torch.add, False, False, "net(x, t)"),
    ],
)
def test_recognised(net, two_times, labelled, written):
    assert str(signature_call(net, two_times, labelled)) == written


def test_arguments_arrive_where_they_belong():
    def net(x, t, *, y, s=None, other=1):
        return x, t, y, s, other

    assert signature_call(net, True, True)(net, 1, 2, 3, 4) == (1, 2, 4, 3, 1)
    assert signature_call(net, False, False)(net, 1, 2, None, None) == (1, 2, None, None, 1)


@pytest.mark.parametrize(
    "net, two_times, labelled, named",
    [
        (lambda x: x, False, False, r"\(x\), not a state and a time"),
        (lambda x, t, mask: x, False, False, "'mask'"),
        (lambda x, t, s: x, False, False, "'s'"),
        (lambda x, t: x, True, False, "second time"),
        (lambda x, t, a, b: x, True, False, "second time"),
        (lambda x, t, a=None: x, True, False, "second time"),
        (lambda x, t: x, False, True, "labels"),
        (lambda x, t, **extras: x, False, True, "labels"),
        (lambda *args: args, False, True, "labels"),
    ],
)
def test_what_is_left_open_is_asked_for(net, two_times, labelled, named):
    with pytest.raises(ValueError, match=named) as caught:
        signature_call(net, two_times, labelled)
    assert "call=" in str(caught.value)


def test_own_function():
    call = custom_call(lambda net, x, t, s: net(x, t, t - s), True, False)
    assert call(lambda x, t, h: (x, t, h), 1, 5, 3, None) == (1, 5, 2)
    assert str(call) == "call(net, x, t, s)"
    assert custom_call(lambda x, t, labels: labels, False, True)(None, 1, 2, None, 7) == 7
    with pytest.raises(ValueError, match="mask"):
        custom_call(lambda x, t, mask: x, False, False)
    with pytest.raises(ValueError, match="'s'"):
        custom_call(lambda x, t: x, True, False)
    with pytest.raises(ValueError, match="'labels'"):
        custom_call(lambda x, t: x, False, True)


def test_the_module_behind_a_callable():
    net = Library()
    assert module_of(net) is net
    assert module_of(net.velocity) is net
    assert module_of(functools.partial(net.velocity, guidance=2)) is net
    assert module_of(lambda x, t: net(x, t)) is None
    assert [p.name for p in parameters_of(net.velocity)] == ["x", "t", "extras"]
