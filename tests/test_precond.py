"""Preconditionings: how a network's output becomes a denoised image or a jump."""

import json
import math

import pytest
import torch

from ctm_fast.noise_embeddings import DiscreteTime, FlowTime, VPTime
from ctm_fast.precond import (
    CM,
    EDM,
    INNER,
    OUTER,
    Euler,
    EulerVarianceMixed,
    LinearFlow,
    Plain,
    Preconditioning,
    Variance,
)
from ctm_fast.sigmas import karras_sigmas
from tests.fixtures import assert_within, fixture_dir, load_fixture, load_golden, tolerance

SIGMAS = karras_sigmas(40)
INNERS = {"edm": EDM(), "cm": CM(), "no": Plain()}
OUTERS = {
    "euler": Euler(),
    "variance": Variance(),
    "euler_variance_mixed": EulerVarianceMixed(),
}
PAIRS = [(o, i) for o in OUTERS for i in INNERS]


def recorded(source):
    if source == "golden":
        return load_golden("ctm_preconditioning")
    return load_fixture("ctm_imagenet_unet")


SOURCES = ["golden", *(["fixture"] if fixture_dir("ctm_imagenet_unet") else [])]


def column(values, like):
    return values.reshape(-1, *[1] * (like.ndim - 1))


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_every_published_parametrisation(source, outer, inner):
    """The official numbers, with F read off where g is F itself."""
    tensors, meta = recorded(source)
    x, t, s = (tensors[k].double() for k in ("x_t", "t", "s"))
    F = tensors["denoised_euler_no"].double()
    precond = Preconditioning(INNERS[inner], OUTERS[outer])
    for kind, (P, Q) in (
        ("denoised", precond.denoise_coefficients(t)),
        ("G", precond.jump_coefficients(t, s)),
    ):
        name = f"{kind}_{outer}_{inner}"
        tol = tolerance(meta, name)
        # Only arithmetic is left, so the network's share of the tolerance is taken off, except
        # where the recorded float32 sum cancels: x - 0.98 x at |x| = 280.
        if not name.startswith("denoised_euler_variance_mixed"):
            tol = {**tol, "rtol": 1e-5}
        assert_within(column(P, x) * x + column(Q, x) * F, tensors[name], tol)


@pytest.mark.parametrize("source", SOURCES)
def test_network_input_as_published(source):
    tensors, meta = recorded(source)
    precond = Preconditioning(noise_embedding="log_250")
    t, s = tensors["t"].double(), tensors["s"].double()
    for name, value in (
        ("c_in", precond.c_in(t)),
        ("rescaled_t", precond.c_noise(t)),
        ("rescaled_s", precond.c_noise(s)),
    ):
        # The recorded logarithm is float32.
        assert_within(value, tensors[name], {**tolerance(meta, name), "atol": 1.3e-4})


@pytest.mark.parametrize(
    ("embedding", "low", "high"),
    [("quarter_log", -1.55365, 1.09551), ("log_250", -1553.65, 1095.51)],
)
def test_ends_of_the_noise_embedding(embedding, low, high):
    ends = torch.tensor([0.002, 80.0], dtype=torch.float64)
    c_noise = Preconditioning(noise_embedding=embedding).c_noise(ends)
    assert torch.allclose(c_noise, torch.tensor([low, high]).double(), rtol=1e-5)


def test_log_250_is_finite_at_zero():
    c_noise = Preconditioning(noise_embedding="log_250").c_noise(torch.zeros(1).double())
    assert c_noise.item() == pytest.approx(250 * math.log(1e-44))


def test_edm_formulas():
    t, sd = SIGMAS, 0.5
    precond = Preconditioning(EDM(sd))
    P, Q = precond.denoise_coefficients(t)
    assert torch.allclose(P, sd**2 / (t**2 + sd**2), rtol=1e-14)
    assert torch.allclose(Q, t * sd / (t**2 + sd**2).sqrt(), rtol=1e-14)
    assert torch.allclose(precond.c_in(t), 1 / (t**2 + sd**2).sqrt(), rtol=1e-14)


def test_edm_makes_unit_variances():
    """Input, and the target that F has to match, have variance 1 at every level."""
    t, sd = SIGMAS, 0.7
    precond = Preconditioning(EDM(sd))
    P, Q = precond.denoise_coefficients(t)
    assert torch.allclose(precond.c_in(t) ** 2 * (sd**2 + t**2), torch.ones_like(t))
    target = ((1 - P) ** 2 * sd**2 + P**2 * t**2) / Q**2
    assert torch.allclose(target, torch.ones_like(t), rtol=1e-9)


def test_cm_is_the_identity_at_sigma_min():
    c_skip, c_out = CM().coefficients(torch.tensor([0.002, 0.003], dtype=torch.float64))
    assert c_skip[0] == 1 and c_out[0] == 0 and c_out[1] > 0


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_jump_to_the_own_level_is_the_identity(outer, inner):
    t = SIGMAS.float()
    P, Q = Preconditioning(INNERS[inner], OUTERS[outer]).jump_coefficients(t, t)
    assert bool((Q == 0).all())
    exact = outer == "euler"
    assert torch.equal(P, torch.ones_like(P)) if exact else torch.allclose(P, torch.ones_like(P))


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_denoised_is_where_the_jump_starts_to(outer, inner):
    """dG/ds = (x - denoised)/t at s = t, for every parametrisation; Q dF/ds vanishes there."""
    precond = Preconditioning(INNERS[inner], OUTERS[outer])
    t = SIGMAS.clone()
    s = t.clone().requires_grad_()
    slopes = [
        torch.autograd.grad(c.sum(), s, retain_graph=True)[0]
        for c in precond.jump_coefficients(t, s)
    ]
    P, Q = precond.denoise_coefficients(t)
    assert torch.allclose(P, 1 - t * slopes[0], rtol=1e-9, atol=1e-12)
    assert torch.allclose(Q, -t * slopes[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_fused_jump_is_the_two_step_formula(outer, inner):
    generator = torch.Generator().manual_seed(0)
    t, s = torch.cartesian_prod(SIGMAS, SIGMAS).unbind(1)
    t, s = t[s <= t], s[s <= t]
    x, F = torch.randn(2, len(t), dtype=torch.float64, generator=generator)
    x = x * t
    c_skip, c_out = INNERS[inner].coefficients(t)
    on_x, on_g = OUTERS[outer].coefficients(t, s, 0.5)
    naive = on_x * x + on_g * (c_skip * x + c_out * F)
    P, Q = Preconditioning(INNERS[inner], OUTERS[outer]).jump_coefficients(t, s)
    assert ((P * x + Q * F - naive).abs() / (1 + x.abs())).max() < 1e-12


def test_inner_gaussian_denoiser_is_f_zero():
    t = SIGMAS
    P, _ = Preconditioning().denoise_coefficients(t)
    assert torch.allclose(P, 0.25 / (t**2 + 0.25), rtol=1e-14)


EMBEDDINGS = ["quarter_log", "log_250", VPTime(), DiscreteTime("iddpm"), FlowTime(2.0)]


@pytest.mark.parametrize("embedding", EMBEDDINGS)
@pytest.mark.parametrize("outer", OUTER.names())
@pytest.mark.parametrize("inner", INNER.names())
def test_json_round_trip(inner, outer, embedding):
    precond = Preconditioning(INNER[inner](sigma_data=0.752), OUTER[outer](), embedding)
    data = json.loads(json.dumps(precond.to_json()))
    assert Preconditioning.from_json(data) == precond
    assert Preconditioning.from_json(data).sigma_data == 0.752


def test_linear_flow_is_the_flow_map_of_the_linear_path():
    """x_s = (1 + s)(x/(1 + t) + (tau_s - tau) F), and the image as the jump to 0."""
    precond = Preconditioning(LinearFlow())
    x, F = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for t, s in ((SIGMAS, SIGMAS / 7), (SIGMAS, SIGMAS), (1e6 * SIGMAS, SIGMAS)):
        P, Q = precond.jump_coefficients(t, s)
        z_s = x / (1 + t) + (s - t) / ((1 + t) * (1 + s)) * F
        torch.testing.assert_close(P * x + Q * F, (1 + s) * z_s, rtol=1e-12, atol=1e-12)
    P, Q = precond.denoise_coefficients(SIGMAS)
    image = (x - SIGMAS * F) / (1 + SIGMAS)
    torch.testing.assert_close(P * x + Q * F, image, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inner", INNER.names())
def test_every_model_with_the_euler_outer_is_a_flow_map(inner):
    precond = Preconditioning(INNER[inner](sigma_data=0.6))
    x, F = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    t, s = SIGMAS, SIGMAS / 3
    a, b = precond.velocity_coefficients(t)
    P, Q = precond.jump_coefficients(t, s)
    z_s = x / (1 + t) + (s - t) / ((1 + t) * (1 + s)) * (a * x + b * F)
    torch.testing.assert_close(P * x + Q * F, (1 + s) * z_s, rtol=1e-11, atol=1e-11)
    with pytest.raises(ValueError, match=r"needs the outer parametrisation Euler\(\), got Var"):
        Preconditioning(INNER[inner](), Variance()).velocity_coefficients(t)


def test_even_steps_in_the_time_of_the_linear_path():
    levels = Preconditioning(LinearFlow()).even_sigmas(1e6, 1e-6, 4)
    assert levels.dtype == torch.float64
    expected = torch.tensor([1e6, 3.0, 1.0, 1 / 3, 1e-6], dtype=torch.float64)
    torch.testing.assert_close(levels, expected, rtol=1e-5, atol=0)
    assert (levels[0], levels[-1]) == (1e6, 1e-6)
    assert Preconditioning().even_sigmas(80.0, 0.002, 4) is None


def test_old_files_still_read():
    data = {"inner": {"name": "edm", "sigma_data": 0.5}, "outer": {"name": "euler"}}
    precond = Preconditioning.from_json({**data, "noise_embedding": "log_250"})
    assert precond == Preconditioning(EDM(0.5), Euler(), "log_250")


def test_bad_choices():
    with pytest.raises(
        ValueError, match=r"'log'; choose from \['half_log', 'log_250', 'quarter_log'\]"
    ):
        Preconditioning(noise_embedding="log")
    with pytest.raises(ValueError, match="sigma_data must be positive, got 0"):
        Preconditioning(EDM(0.0))
    data = Preconditioning().to_json()
    with pytest.raises(ValueError, match=r"fields \['extra'\], missing \[\]"):
        Preconditioning.from_json({**data, "extra": 1})
    with pytest.raises(ValueError, match="unknown inner parametrisation 'vp'"):
        Preconditioning.from_json({**data, "inner": {"name": "vp"}})
    with pytest.raises(ValueError, match=r"missing.*\['outer'\]"):
        Preconditioning.from_json({k: v for k, v in data.items() if k != "outer"})
