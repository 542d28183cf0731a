"""Inner scalings, against formulas in float64 and against published wrappers."""

import json

import pytest
import torch

from ctm_fast.inner import CM, EDM, INNER, Ect, Epsilon, LinearFlow, Plain, Score, VPrediction
from ctm_fast.noise_embeddings import DiscreteTime, VPTime
from ctm_fast.precond import Preconditioning
from ctm_fast.sigmas import karras_sigmas

SIGMAS = karras_sigmas(40)
EXPECTED = {  # c_in, c_skip, c_out at t, by the formulas
    EDM(0.7): lambda t: (
        (t**2 + 0.49) ** -0.5,
        0.49 / (t**2 + 0.49),
        0.7 * t * (t**2 + 0.49) ** -0.5,
    ),
    CM(0.7): lambda t: (
        (t**2 + 0.49) ** -0.5,
        0.49 / ((t - 0.002) ** 2 + 0.49),
        0.7 * (t - 0.002) * (t**2 + 0.49) ** -0.5,
    ),
    Plain(1.0): lambda t: ((t**2 + 1) ** -0.5, 0 * t, 1 + 0 * t),
    Ect(0.5, 0.003): lambda t: (
        (t**2 + 0.25) ** -0.5,
        0.25 / ((t - 0.003) ** 2 + 0.25),
        0.5 * (t - 0.003) * (t**2 + 0.25) ** -0.5,
    ),
    Epsilon(): lambda t: ((t**2 + 1) ** -0.5, 1 + 0 * t, -t),
    Score(): lambda t: (1 + 0 * t, 1 + 0 * t, t),
    VPrediction(): lambda t: ((t**2 + 1) ** -0.5, 1 / (1 + t**2), -t * (1 + t**2) ** -0.5),
    LinearFlow(): lambda t: (1 / (1 + t), 1 / (1 + t), -t / (1 + t)),
}
X = torch.tensor([0.7, -0.4, 1.1, -2.0, 55.0]).double()
T = torch.tensor([0.003, 0.02, 0.5, 3.0, 80.0]).double()
# Outputs of the wrappers in NVlabs/edm and locuslab/ect at (X, T) around F = x + 0.3 cos(c_noise).
WRAPPERS = {
    "EDMPrecond": (EDM(), "quarter_log", (0.704281, -0.4119861, 1.204478, -0.2359649, 0.4145229)),
    "VPPrecond": (Epsilon(), VPTime(), (0.6970035, -0.386021, 0.4598831, 0.2224264, 21.34313)),
    "VEPrecond": (Score(), "half_log", (0.7029785, -0.4086421, 1.677519, -7.172973, 4434.505)),
    "iDDPMPrecond": (
        Epsilon(),
        DiscreteTime("iddpm"),
        (0.6974137, -0.3977626, 0.4581178, -0.327167, 4.123367),
    ),
    "ECMPrecond.eval": (Ect(), "quarter_log", (0.7, -0.4102694, 1.203861, -0.2358883, 0.4145077)),
    "ECMPrecond.train": (
        Ect(shift=0.0),
        "quarter_log",
        (0.704281, -0.4119861, 1.204478, -0.2359649, 0.4145229),
    ),
}


@pytest.mark.parametrize("inner", EXPECTED, ids=repr)
def test_formulas(inner):
    found = (inner.c_in(SIGMAS), *inner.coefficients(SIGMAS))
    for value, expected in zip(found, EXPECTED[inner](SIGMAS), strict=True):
        assert torch.allclose(value, expected, rtol=1e-13, atol=0)
        assert value.shape == SIGMAS.shape and value.dtype == torch.float64


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_published_wrappers(wrapper):
    inner, embedding, expected = WRAPPERS[wrapper]
    precond = Preconditioning(inner, noise_embedding=embedding)
    P, Q = precond.denoise_coefficients(T)
    F = precond.c_in(T) * X + 0.3 * precond.c_noise(T).cos()
    # Their float32 c_noise of up to 932 is good to 6e-5, and Q is up to 80.
    error = (P * X + Q * F - torch.tensor(expected).double()).abs()
    assert bool((error < 2e-5 * (1 + Q.abs())).all()), error


def test_what_each_network_predicts():
    """With the right answer as F, every g is the clean image."""
    x0, noise = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = SIGMAS
    x = x0 + t * noise
    alpha = (1 + t**2) ** -0.5
    answers = {
        Epsilon(): noise,
        Score(): -noise,
        VPrediction(): alpha * noise - t * alpha * x0,
        Plain(1.0): x0,
        LinearFlow(): noise - x0,
    }
    for inner, F in answers.items():
        c_skip, c_out = inner.coefficients(t)
        assert torch.allclose(c_skip * x + c_out * F, x0, rtol=1e-9, atol=1e-11), inner


def test_ect_is_the_identity_at_its_shift_and_edm_without():
    at = torch.tensor([0.003], dtype=torch.float64)
    assert [float(c) for c in Ect().coefficients(at)] == [1.0, 0.0]
    for a, b in zip(Ect(0.4, 0.0).coefficients(SIGMAS), EDM(0.4).coefficients(SIGMAS), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", INNER.names())
def test_velocity_of_the_linear_path(name):
    """(a, b) gives the velocity of the point z = x/(1+t) in tau = t/(1+t), for any F."""
    inner = INNER[name](sigma_data=0.6)
    x, F = torch.randn(2, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t, x = SIGMAS, x * (1 + SIGMAS)
    c_skip, c_out = inner.coefficients(t)
    g, (a, b) = c_skip * x + c_out * F, inner.velocity(t)
    # The path through z that arrives at the image g: z = g + tau v.
    tau, z = t / (1 + t), x / (1 + t)
    torch.testing.assert_close(a * x + b * F, (z - g) / tau, rtol=1e-10, atol=1e-10)
    if name == "linear_flow":
        assert torch.equal(a * x + b * F, F)


@pytest.mark.parametrize("name", INNER.names())
def test_json_round_trip(name):
    inner = INNER[name](sigma_data=0.3)
    assert INNER.from_json(json.loads(json.dumps(INNER.to_json(inner)))) == inner
    assert INNER.to_json(inner)["name"] == name and inner.sigma_data == 0.3
