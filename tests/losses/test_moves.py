"""Jumps of the moving images alone."""

import pytest
import torch

from ctm_fast.losses.moves import grid, jump_rows, moving_rows, on_device
from ctm_fast.rng import stream
from ctm_fast.sigmas import karras_sigmas
from tests.analytic import Gaussian, GaussianNet

CPU = torch.device("cpu")


def test_moving_rows() -> None:
    index = torch.tensor([0, 3, 7, 7])
    assert moving_rows(index, torch.tensor([0, 4, 7, 7])).tolist() == [1]
    assert moving_rows(index, 7).tolist() == [0, 1]
    assert moving_rows(None, 7) is None
    assert moving_rows(index, None) is None


@pytest.mark.parametrize("labels", [None, torch.arange(4), torch.eye(4)[:1]])
def test_only_moving_images_go_through_the_network(labels) -> None:
    net = GaussianNet(Gaussian(0.1, 0.5), destination=True).double()
    model = net.denoiser()
    seen = []
    net.register_forward_pre_hook(lambda m, args: seen.append(args[3]))
    x = torch.randn(4, 1, 4, 4, dtype=torch.float64, generator=stream(1)).requires_grad_()
    sigma = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    to = torch.tensor([1.0, 0.5, 3.0, 2.0], dtype=torch.float64)
    rows = torch.tensor([1, 3])
    moved = jump_rows(model, x, sigma, to, labels, rows)
    assert net.rows == 2
    if labels is not None:
        assert torch.equal(seen[0], labels if len(labels) == 1 else labels[rows])
    assert torch.equal(moved[[0, 2]], x[[0, 2]])
    every = jump_rows(model, x, sigma, to, labels, None)
    assert net.rows == 6
    torch.testing.assert_close(moved, every, rtol=1e-12, atol=1e-12)
    (part,) = torch.autograd.grad(moved.sin().sum(), x)
    (whole,) = torch.autograd.grad(every.sin().sum(), x)
    torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-12)


def test_nothing_is_called_where_nothing_moves() -> None:
    net = GaussianNet(destination=True)
    x, level = torch.randn(3, 1, 4, 4, generator=stream(1)), torch.ones(3)
    none = torch.zeros(0, dtype=torch.int64)
    assert jump_rows(net.denoiser(), x, level, level, None, none) is x
    assert net.calls == 0
    jump_rows(net.denoiser(), x, level, level, None, torch.arange(3))
    assert net.calls == 1


def test_grid_is_made_once() -> None:
    first = grid(8, 0.002, 80.0, 7.0, CPU)
    assert torch.equal(first, karras_sigmas(8).float())
    assert grid(8, 0.002, 80.0, 7.0, CPU) is first
    with torch.inference_mode():
        assert not grid(9, 0.002, 80.0, 7.0, CPU).is_inference()


def test_on_device() -> None:
    rows = torch.arange(3)
    assert torch.equal(on_device(rows, CPU), rows)
