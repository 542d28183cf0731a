"""Counting network evaluations."""

import torch
from torch.autograd import forward_ad

from benchmarks.quality.counting import counted
from benchmarks.quality.points import PointsNet

X, LEVEL = torch.randn(4, 2, 1, 1), torch.zeros(4)


def test_forward_backward_and_derivatives() -> None:
    net = PointsNet()
    with counted() as found, torch.no_grad():
        net(X, LEVEL)
    assert found.number == 4
    with counted() as found:
        net(X, LEVEL)
        net.requires_grad_(False)(X[:2], LEVEL[:2])  # nothing to differentiate
    assert found.number == 3 * 4 + 2
    with counted() as found, torch.no_grad(), forward_ad.dual_level():
        net(forward_ad.make_dual(X, torch.ones_like(X)), LEVEL)
    assert found.number == 2 * 4


def test_nothing_is_counted_outside() -> None:
    net = PointsNet()
    with counted() as found:
        pass
    net(X, LEVEL)
    assert found.number == 0
