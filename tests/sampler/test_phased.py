"""Sampling phase by phase, and skipping edges."""

import dataclasses

import pytest
import torch

from ctm_fast.sampler import Sampler, sample_euler, sample_phased
from ctm_fast.sampler.phased import phase_levels

from .worlds import World, latents, small_model


def test_one_step_by_hand() -> None:
    model, x = small_model("consistency").eval(), latents(3)
    images = sample_phased(model, x, [80.0, 2.0, 0.0], disable=True, eta=0.9)
    landed = (1.8 / 80) * x + (1 - 1.8 / 80) * model(x, 80.0)
    torch.testing.assert_close(images, model(landed, 1.8))


def test_eta_one_is_plain_multistep_through_the_edges() -> None:
    model, x = small_model("consistency").eval(), latents(3)
    edges = [80.0, 5.0, 0.8, 0.0]
    plain = sample_euler(model, x, edges, disable=True)
    assert torch.equal(sample_phased(model, x, edges, disable=True), plain)
    assert not torch.equal(sample_phased(model, x, edges, disable=True, eta=0.99), plain)


def test_one_phase_is_one_call_of_the_network() -> None:
    model, x = small_model("consistency").eval(), latents(3)
    images = sample_phased(model, x, [80.0, 0.0], disable=True)
    torch.testing.assert_close(images, model(x, 80.0))


def test_levels() -> None:
    assert phase_levels([80.0, 4.0, 1.0, 0.0], 0.5) == [80.0, 2.0, 0.5, 0.0]
    assert phase_levels([80.0, 0.0], 0.5) == [80.0, 0.0]
    for eta in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \(0, 1\]"):
            phase_levels([80.0, 4.0, 0.0], eta)
    with pytest.raises(ValueError, match=r"past the next edge 1\.0"):
        phase_levels([80.0, 4.0, 1.0, 0.0], 0.25)


def test_sampler_takes_edges_in_any_order() -> None:
    world = World("consistency")
    sampler = Sampler(world, method="phased", edges=[0.8, 5.0], eta=0.95)
    assert sampler.edges == (5.0, 0.8)
    assert sampler.sigmas == (80.0, 5.0, 0.8, 0.0)
    assert (sampler.steps, sampler.nfe, sampler.eta) == (3, 3, 0.95)
    assert Sampler(world, method="phased", sigmas=[80, 5, 0.8, 0]).edges == (5.0, 0.8)
    assert Sampler(world, method="phased", edges=()).sigmas == (80.0, 0.0)
    again = dataclasses.replace(sampler, batch_size=2)
    assert torch.equal(again(4, seed=1), sampler(4, seed=1))
    visited = [sigma for sigma, _ in sampler.trajectory(1)]
    assert visited == pytest.approx([80.0, 4.75, 0.76, 0.0])
    x = latents(2).float()
    expected = sample_phased(world, x, sampler.sigmas, disable=True, eta=0.95).clamp(-1, 1)
    assert torch.equal(sampler(noise=x), expected)


def test_refusals() -> None:
    world = World("consistency")
    for options, message in [
        ({"method": "phased"}, "needs edges="),
        ({"method": "phased", "steps": 2}, "needs edges="),
        ({"method": "phased", "edges": [1], "steps": 3}, "2 steps but steps=3"),
        ({"method": "phased", "edges": [1], "sigmas": [80, 2, 0]}, "contradict"),
        ({"method": "phased", "edges": [1, 1]}, "strictly decreasing"),
        ({"method": "phased", "edges": [100]}, "strictly decreasing"),
        ({"method": "phased", "edges": [1], "eta": 2}, "eta is 2"),
        ({"eta": 0.9}, "belong to 'phased'"),
        ({"edges": [1], "steps": 2}, "belong to 'phased'"),
    ]:
        with pytest.raises(ValueError, match=message):
            Sampler(world, **options)
    for kind, other in [("trajectory", "exact"), ("denoiser", "euler")]:
        with pytest.raises(ValueError, match=f"use '{other}'"):
            Sampler(World(kind), method="phased", edges=[1])
