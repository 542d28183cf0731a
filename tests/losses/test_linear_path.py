"""The linear path: times, velocities, and models that are flow maps."""

import dataclasses
import math

import pytest
import torch

from ctm_fast import models as networks
from ctm_fast.checkpoints import load, save
from ctm_fast.denoiser import Denoiser
from ctm_fast.inference import Tabulated, freeze
from ctm_fast.losses.linear_path import (
    PUBLISHED_TIMES,
    FlowTimes,
    average_velocity,
    column,
    path_point,
    velocity,
    velocity_slope,
    within,
)
from ctm_fast.models import shared_dropout, student_from
from ctm_fast.noise_embeddings import DiscreteTime, FlowTime
from ctm_fast.precond import EDM, INNER, LinearFlow, Preconditioning, Variance
from ctm_fast.rng import stream
from ctm_fast.sampler import Sampler
from ctm_fast.solvers.heun import heun_solve, heun_solve_reference

from .flow_oracle import FLOW, RANGE, exact_map, exact_velocity, map_error, moved
from .oracle import DATA, draws, exact_teacher

SMALL = dict(model_channels=16, num_blocks=1, dropout=0.3, attn_resolutions=(4,))


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=stream(seed), dtype=torch.float64)


def times(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """t in (0.05, 0.97), r below it, equal to it in the first quarter."""
    uniform = torch.rand(2, size, generator=stream(seed, 9), dtype=torch.float64)
    t = 0.05 + 0.92 * uniform[0]
    r = t * (0.01 + 0.95 * uniform[1])
    return t, torch.where(torch.arange(size) < size // 4, t, r)


def unet(precond: Preconditioning = FLOW, **options) -> Denoiser:
    """Tiny U-Net with destination embedding, float64, in training mode."""
    net = networks.build("ctm-digits", seed=1, **{**SMALL, **options}).double().train()
    with torch.no_grad():  # some layers start near zero
        for weight in net.parameters():
            weight += 0.05 * randn(9, *weight.shape)
    return Denoiser(net, precond, sigma_min=0.002, sigma_max=80.0)


def test_published_times():
    """The share that jumps is 25 % in the first code and 75 % in the second, from one 0.75."""
    shares, size = {}, 40_000
    for name, published in PUBLISHED_TIMES.items():
        t, r = published.sample(size, stream(0))
        assert t.dtype == torch.float64 and t.shape == r.shape == (size,)
        assert ((r > 0) & (r <= t) & (t < 1)).all()
        shares[name] = float((r < t).double().mean())
    assert shares["imagenet"] == pytest.approx(0.25, abs=0.01)
    assert shares["cifar10_paper"] == pytest.approx(0.75, abs=0.01)
    # Where r is lowered to t it stays there too: P(r <= t) = Phi(3.4 / (1.6 sqrt(2))) = 0.9335.
    assert shares["cifar10"] == pytest.approx(0.75 * 0.9335, abs=0.01)


def test_quantiles_of_the_times():
    t, r = FlowTimes(moving=1.0).sample(40_000, stream(1))
    assert float(t.logit().mean()) == pytest.approx(-0.6, abs=0.03)
    assert float(t.logit().std()) == pytest.approx(1.6, abs=0.03)
    one = FlowTimes(-0.4, 1.0, -0.4, 1.0, sort=True, moving=1.0)
    t, r = one.sample(40_000, stream(2))
    # Larger and smaller of two normal numbers: mean +- std/sqrt(pi).
    half = 1 / math.sqrt(math.pi)
    assert float(t.logit().mean()) == pytest.approx(-0.4 + half, abs=0.02)
    assert float(r.logit().mean()) == pytest.approx(-0.4 - half, abs=0.02)
    t, r = dataclasses.replace(one, moving=0.0).sample(100, stream(2))
    assert torch.equal(t, r)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"t_std": 0.0}, "t_std and r_std must be positive, got 0.0 and 1.6"),
        ({"moving": 1.5}, r"moving must be in \[0, 1\], got 1.5"),
    ],
)
def test_bad_times(fields, message):
    with pytest.raises(ValueError, match=message):
        FlowTimes(**fields)


def test_times_within_the_range_of_a_model():
    model = unet()
    found = within(torch.tensor([0.0, 0.001, 0.5, 0.999]).double(), model)
    low, high = 0.002 / 1.002, 80 / 81
    assert found.tolist() == pytest.approx([low, low, 0.5, high])


def test_the_exact_map_satisfies_the_identity():
    """u = v - (t - r) du/dt to 1e-8, and not for a map that is wrong by a tenth."""
    t, r = times(300)
    z = path_point(draws(300), randn(3, 300, 1, 1, 1), t)
    v = exact_velocity(z.flatten(), t).reshape(z.shape)
    gap = column(t - r, z)
    for model, residual in ((exact_map(), (0, 1e-8)), (exact_map(wrong=0.1), (1e-2, 1.0))):
        u = average_velocity(model, z, t, r)
        found = (u - v + gap * velocity_slope(model, z, t, r, v)).abs().max()
        assert residual[0] <= found < residual[1]
    # Where r = t it is the velocity, as is that of the denoiser.
    u = average_velocity(exact_map(), z, t, t)
    torch.testing.assert_close(u, v, rtol=1e-10, atol=1e-10)
    for model in (exact_map(), exact_teacher()):
        torch.testing.assert_close(velocity(model, z, t), v, rtol=1e-9, atol=1e-9)


def test_the_exact_map_in_units_of_sigma():
    """Boundary, semigroup, denoiser, score, and golden numbers of the mixture."""
    model, x = exact_map(), torch.tensor([-0.5, 0.2, 1.5, -40.0, 10.0]).double()
    x = x.reshape(-1, 1, 1, 1)
    t = torch.tensor([0.5, 0.5, 1.0, 80.0, 80.0]).double()
    golden = torch.tensor([-0.817428, 0.417356, 0.815662, 0.031239, 0.507649]).double()
    low = torch.full_like(t, 0.002)
    torch.testing.assert_close(model.jump(x, t, low).flatten(), golden, rtol=0, atol=2e-6)
    assert (model.jump(x, t, t) - x).abs().max() < 1e-13
    u = t / 3
    twice = model.jump(model.jump(x, t, u), u, low)
    torch.testing.assert_close(twice, model.jump(x, t, low), rtol=1e-9, atol=1e-9)
    flat = x.reshape(-1, 1)
    torch.testing.assert_close(model(x, t).flatten(1), DATA(flat, t), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model.score(x, t).flatten(1), DATA.score(flat, t), rtol=1e-8, atol=0)
    expected = moved((x.flatten() / (1 + t)), t / (1 + t), u / (1 + u)) * (1 + u)
    torch.testing.assert_close(model.jump(x, t, u).flatten(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_samples_of_the_exact_map_are_the_exact_images(steps):
    assert map_error(exact_map(), steps) < 1e-6
    sampler = Sampler(
        exact_map(), steps=steps, state_dtype=torch.float64, clip=False, latents="unit"
    )
    assert sampler.method == "exact"
    noise = randn(5, 64, 1, 1, 1)
    high, low = RANGE["sigma_max"], RANGE["sigma_min"]
    exact = DATA.jump(high * noise.reshape(-1, 1), high, low).reshape(noise.shape)
    torch.testing.assert_close(sampler(noise=noise), exact, rtol=1e-7, atol=1e-7)
    # Steps of equal length in the time of the path.
    levels = torch.tensor(sampler.sigmas, dtype=torch.float64)
    gaps = (levels / (1 + levels)).diff()
    torch.testing.assert_close(gaps, gaps[:1].expand(steps), rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ["gamma", "cm_multistep", "heun", "euler"])
def test_other_samplers_run_a_flow_map(method):
    model = unet(dropout=0.0).float().eval()
    options = {"gamma": 0.5} if method == "gamma" else {}
    images = Sampler(model, steps=2, method=method, freeze=False, **options)(3, seed=1)
    assert images.shape == (3, 1, 8, 8) and images.isfinite().all()


@pytest.mark.parametrize("tells_gap", [True, False])
def test_a_flow_map_as_teacher_is_solved_along_a_grid(tells_gap):
    """It is told the gap 0 in each call, whether its levels are embedded once or every time."""
    model = unet(dropout=0.0).eval().requires_grad_(False)
    if not tells_gap:
        model.precond = Preconditioning(LinearFlow(), noise_embedding=FlowTime(1.0, "level"))
    x, sigmas = 5 * randn(8, 2, 1, 8, 8), torch.tensor([5.0, 2.0, 0.7, 0.1]).double()
    start, steps = torch.tensor([0, 1]), torch.tensor([3, 1])
    expected = heun_solve_reference(model, x, sigmas, start, steps)
    for weights_learn in (False, True):
        model.requires_grad_(weights_learn)
        found = heun_solve(model, x, sigmas, start, steps)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", INNER.names())
def test_average_velocity_of_any_inner_scaling_is_that_of_its_jump(name):
    model = unet(Preconditioning(INNER[name](sigma_data=0.6)), dropout=0.0)
    t, r = times(8)
    z = randn(4, 8, 1, 8, 8)
    u = average_velocity(model, z, t, r)
    x, sigma, sigma_to = z / column(1 - t, z), t / (1 - t), r / (1 - r)
    jumped = model.jump(x, sigma, sigma_to) * column(1 - r, z)
    torch.testing.assert_close(z + column(r - t, z) * u, jumped, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="needs the outer parametrisation Euler"):
        average_velocity(unet(Preconditioning(EDM(), Variance())), z, t, r)


@pytest.mark.parametrize("how", ["forward", "difference"])
@pytest.mark.parametrize("precond", [FLOW, Preconditioning()], ids=["flow", "edm"])
def test_slope_against_central_differences_with_dropout(precond, how):
    model = unet(precond)
    t, r = times(6, seed=2)
    t[0], r[0] = 0.9999, 0.0001  # little room to both ends
    z, v = randn(5, 6, 1, 8, 8), randn(6, 6, 1, 8, 8)
    with shared_dropout("cpu", 5):
        found = velocity_slope(model, z, t, r, v, how=how)
        after = average_velocity(model, z, t, r).detach()
    ends, h = [], 1e-7
    for step in (h, -h, 0):
        with shared_dropout("cpu", 5), torch.no_grad():
            ends.append(average_velocity(model, z + step * v, t + step, r))
    reference = (ends[0] - ends[1]) / (2 * h)
    assert not found.requires_grad and reference.abs().max() > 0.1
    size = reference.flatten(1).norm(dim=1).clamp(min=1)
    error = (found - reference).flatten(1).norm(dim=1) / size
    assert error.max() < 1e-5
    assert torch.equal(after, ends[2])


def test_slopes_are_not_taken_in_half_precision():
    model = unet(dropout=0.0).float()
    t, r = times(6)
    z, v = randn(5, 6, 1, 8, 8).float(), randn(6, 6, 1, 8, 8).float()
    expected = velocity_slope(model, z, t, r, v)
    model.dtype = torch.bfloat16
    assert torch.equal(velocity_slope(model, z, t, r, v), expected)
    assert model.dtype == torch.bfloat16


def test_an_embedding_without_derivative_is_refused():
    model = unet(Preconditioning(LinearFlow(), noise_embedding=DiscreteTime()))
    t, r = times(2)
    z = randn(5, 2, 1, 8, 8)
    with pytest.raises(ValueError, match="DiscreteTime has no derivative"):
        velocity_slope(model, z, t, r, z)


def test_a_flow_map_is_saved_and_frozen(tmp_path):
    model = unet(dropout=0.0).float().eval()
    again = load(save(model, tmp_path / "flow.safetensors"))
    assert (again.precond, again.kind) == (FLOW, "trajectory")
    x = 3 * randn(7, 2, 1, 8, 8).float()
    expected = model.jump(x, 3.0, 0.5)
    assert torch.equal(again.jump(x, 3.0, 0.5), expected)
    frozen = freeze(model, torch.float32)
    assert isinstance(frozen, Tabulated)
    torch.testing.assert_close(frozen.jump(x, 3.0, 0.5), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(frozen(x, 3.0), model(x, 3.0), rtol=1e-4, atol=1e-4)
    sampler, plain = Sampler(model, steps=2), Sampler(model, steps=2, freeze=False)
    torch.testing.assert_close(sampler(2, seed=0), plain(2, seed=0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("inner", [LinearFlow(), EDM()], ids=["flow", "edm"])
def test_an_exact_student_moves_with_its_teacher(inner):
    precond = Preconditioning(inner, noise_embedding=FLOW.noise_embedding)
    teacher = Denoiser(networks.build("digits", seed=1, **{**SMALL, "dropout": 0.0}), precond)
    teacher = teacher.double().eval()
    with torch.no_grad():
        for weight in teacher.parameters():
            weight += 0.05 * randn(9, *weight.shape)
    student = student_from(teacher, exact=True).eval()
    t, r = times(8)
    z = randn(4, 8, 1, 8, 8)
    expected = velocity(teacher, z, t)
    torch.testing.assert_close(average_velocity(student, z, t, r), expected, rtol=1e-9, atol=1e-9)
