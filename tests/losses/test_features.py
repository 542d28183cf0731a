"""The normalised distance: value by hand, gradient, dtypes, pixels without activation."""

import pytest
import torch

from ctm_fast.losses.features import normalised_distance
from ctm_fast.rng import stream


def maps(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b = torch.randn(2, 3, 5, 4, 6, generator=stream(0), dtype=torch.float64).to(dtype)
    return a, b, torch.rand(5, generator=stream(1), dtype=torch.float64)


def by_hand(a, b, heads, eps):
    a, b = (x / (x.norm(dim=1, keepdim=True) + eps) for x in (a, b))
    squares = (a - b) ** 2
    squares = squares if heads is None else squares * heads.reshape(1, -1, 1, 1)
    return squares.sum(1).mean((1, 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient(weighted: bool) -> None:
    a, b, heads = maps()
    heads = heads if weighted else None
    a.requires_grad_()
    value = normalised_distance(a, b, heads, 1e-2)
    expected = by_hand(a, b, heads, 1e-2)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    (found,) = torch.autograd.grad(value @ weights, a)
    (wanted,) = torch.autograd.grad(expected @ weights, a)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_narrow_maps_are_compared_in_float32(dtype: torch.dtype) -> None:
    a, b, heads = maps(dtype)
    value = normalised_distance(a, b, heads.float(), 1e-6)
    assert value.dtype == torch.float32
    exact = by_hand(a.double(), b.double(), heads, 1e-6)
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    assert normalised_distance(a, a, heads.float(), 1e-6).abs().max() == 0
    a.requires_grad_()
    normalised_distance(a, b, heads.float(), 1e-6).sum().backward()
    assert a.grad.dtype == dtype


def test_layout_is_kept_and_no_wide_map_is_saved() -> None:
    a, b, heads = maps(torch.bfloat16)
    a = a.contiguous(memory_format=torch.channels_last).requires_grad_()
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        value = normalised_distance(a, b, heads.float(), 1e-6)
    assert all(t.dtype == torch.bfloat16 or t.shape[1:2] != a.shape[1:2] for t in saved)
    value.sum().backward()
    assert a.grad.is_contiguous(memory_format=torch.channels_last)


def test_pixels_without_activation_have_no_gradient() -> None:
    a, b, _ = maps()
    a[:, :, 0, 0] = 0
    a.requires_grad_()
    value = normalised_distance(a, b, None, 1e-10)
    torch.testing.assert_close(value, by_hand(a.detach(), b, None, 1e-10))
    value.sum().backward()
    assert a.grad.isfinite().all()
    assert a.grad[:, :, 0, 0].abs().max() == 0
    assert a.grad[:, :, 1, 1].abs().max() > 0
