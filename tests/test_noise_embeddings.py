"""Noise embeddings: what networks of other code bases are told about a noise level."""

import json
import math

import pytest
import torch

from ctm_fast.noise_embeddings import (
    NOISE_EMBEDDINGS,
    PARAMETRIC,
    SCHEDULES,
    DiscreteTime,
    FlowTime,
    VPTime,
    c_noise,
    c_noise_to,
    check_noise_embedding,
    embedding_from_json,
    embedding_to_json,
)

LEVELS = (0.003, 0.02, 0.5, 3.0, 80.0)
# c_noise of the wrappers in NVlabs/edm at LEVELS, float32.
RECORDED = {
    "quarter_log": (-1.452286, -0.9780058, -0.1732868, 0.2746531, 1.095507),  # EDMPrecond
    "half_log": (-6.50229, -4.60517, -1.386294, 0.4054651, 3.688879),  # VEPrecond
    VPTime(): (0.08853622, 3.061281, 144.6691, 475.5818, 932.5776),  # VPPrecond
    DiscreteTime("iddpm"): (-1.0, 6.0, 289.0, 793.0, 991.0),  # iDDPMPrecond
}
# Noise levels of some indices: diffusers' DDPMScheduler, and iDDPMPrecond's table read backwards.
INDICES = (0, 1, 10, 100, 500, 990, 999)
TABLES = {
    "linear": (0.01000133, 0.01483204, 0.04688638, 0.3422601, 3.442967, 143.7803, 157.4073),
    "scaled_linear": (0.01000133, 0.01423717, 0.03538715, 0.1722769, 1.42079, 33.72473, 36.91192),
    "cosine": (0.006427109, 0.009351345, 0.02686405, 0.1710438, 1.015551, 71.29121, 20291.3),
    "iddpm": (0.006422337, 0.009347749, 0.02685991, 0.1710435, 1.01555, 71.2912, 20291.17),
}


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("embedding", RECORDED, ids=str)
def test_published_wrappers(embedding, dtype):
    found = c_noise(embedding, torch.tensor(LEVELS, dtype=dtype))
    assert found.dtype == dtype
    # VPPrecond's own float32 arithmetic is off by 6e-4 at the lowest level.
    atol = 1e-3 if isinstance(embedding, VPTime) else 0
    assert torch.allclose(found.double(), doubles(RECORDED[embedding]), rtol=2e-6, atol=atol)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_published_noise_levels(schedule):
    """Their float32 products are off by 5e-4 at the low end, where 1 - abar cancels."""
    time = DiscreteTime(schedule)
    found, expected = time.sigmas[list(INDICES)], doubles(TABLES[schedule])
    assert found.shape == (7,) and time.sigmas.shape == (1000,)
    assert torch.allclose(found, expected, rtol=6e-4)
    assert torch.allclose(found[3:], expected[3:], rtol=1e-5)
    assert (time.sigma_min, time.sigma_max) == (found[0], found[-1])


def test_noise_levels_by_the_textbook():
    beta = torch.linspace(0.001, 0.3, 50, dtype=torch.float64)
    abar = (1 - beta).cumprod(0)
    time = DiscreteTime("linear", steps=50, beta_start=0.001, beta_end=0.3)
    assert torch.allclose(time.sigmas, ((1 - abar) / abar).sqrt(), rtol=1e-12)


def test_cosine_without_its_cap_is_the_cosine():
    """abar_i = cos^2(phase): sigma = tan(phase), relative to the phase of time 0."""
    time = DiscreteTime("cosine", steps=20, offset=0.05, max_beta=1 - 1e-15)
    phases = (torch.arange(1, 20, dtype=torch.float64) / 20 + 0.05) / 1.05 * math.pi / 2
    abar = phases.cos() ** 2 / math.cos(0.05 / 1.05 * math.pi / 2) ** 2
    assert torch.allclose(time.sigmas[:-1], ((1 - abar) / abar).sqrt(), rtol=1e-10)
    capped = DiscreteTime("cosine", steps=20, offset=0.05, max_beta=0.5)
    before, last = (capped.sigmas[i] ** 2 + 1 for i in (-2, -1))
    assert (last / before).item() == pytest.approx(1 / (1 - 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_index_of_the_nearest_level(schedule, dtype):
    time = DiscreteTime(schedule)
    levels = time.sigmas
    assert torch.equal(time(levels.to(dtype)).double(), torch.arange(1000.0).double())
    near = torch.cat([levels * 1.001, levels[1:] * 0.999])
    expected = (near[:, None] - levels).abs().argmin(1).double()
    assert torch.equal(time(near.to(dtype)).double(), expected)
    ends = torch.tensor([[1e-9, 1e9]], dtype=dtype)
    assert time(ends).tolist() == [[-1 if schedule == "iddpm" else 0, 999]]
    assert time(ends).dtype == dtype


def test_one_level_for_a_whole_batch():
    level = torch.tensor([0.5]).expand(3)
    assert DiscreteTime("iddpm")(level).tolist() == [289.0] * 3


def test_vp_time_inverts_its_schedule():
    for time in (VPTime(), VPTime(beta_d=5.0, beta_min=0.5, steps=100)):
        t = torch.linspace(1e-6, 1, 33, dtype=torch.float64)
        sigma = doubles([time.sigma(value) for value in t.tolist()])
        expected = (time.beta_d * t**2 / 2 + time.beta_min * t).expm1().sqrt()
        assert torch.allclose(sigma, expected, rtol=1e-13)
        assert torch.allclose(time(sigma), (time.steps - 1) * t, rtol=1e-12)
        assert torch.allclose(time(sigma.float()).double(), (time.steps - 1) * t, rtol=1e-5)
    assert VPTime().sigma(1.0) == pytest.approx(152.16697, rel=1e-6)


def test_log_250_is_finite_at_zero():
    assert c_noise("log_250", torch.zeros(1).double()).item() == pytest.approx(
        250 * math.log(1e-44)
    )


def test_flow_time_tells_the_time_and_the_gap():
    t, s = doubles([80.0, 3.0, 1.0, 0.5]), doubles([0.0, 1.0, 1.0, 0.002])
    tau, tau_to = t / (1 + t), s / (1 + s)
    assert torch.allclose(c_noise(FlowTime(), t), tau, rtol=1e-15)
    assert torch.allclose(c_noise(FlowTime(1000.0), t), 1000 * tau, rtol=1e-15)
    told = [(FlowTime(), tau - tau_to), (FlowTime(2.0, "level"), 2 * tau_to)]
    for embedding, expected in told:
        found = c_noise_to(embedding, c_noise(embedding, t), c_noise(embedding, s))
        assert torch.allclose(found, expected, rtol=1e-14)
    # No gap where the network denoises, and all other embeddings tell the level.
    here = c_noise(FlowTime(), t)
    assert torch.equal(c_noise_to(FlowTime(), here, here), torch.zeros(4).double())
    assert torch.equal(c_noise_to("quarter_log", t, s), s)


@pytest.mark.parametrize(
    "embedding",
    [
        *NOISE_EMBEDDINGS,
        VPTime(20.0, 0.2, 500),
        FlowTime(1e3, "level"),
        *(DiscreteTime(s, offset=0.01) for s in SCHEDULES),
    ],
    ids=str,
)
def test_json_round_trip(embedding):
    data = json.loads(json.dumps(embedding_to_json(embedding)))
    assert embedding_from_json(data) == embedding
    assert hash(embedding_from_json(data)) == hash(embedding)


def test_names():
    assert embedding_to_json("quarter_log") == "quarter_log"
    assert embedding_to_json(VPTime()) == {
        "name": "vp_time",
        "beta_d": 19.9,
        "beta_min": 0.1,
        "steps": 1000,
    }
    assert PARAMETRIC.names() == ["discrete_time", "flow_time", "vp_time"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VPTime(beta_d=0.0), "beta_d must be positive, got 0.0"),
        (lambda: VPTime(beta_min=-1.0), "beta_min must be positive"),
        (lambda: VPTime(beta_d=math.nan), "beta_d must be positive, got nan"),
        (lambda: VPTime(steps=1), r"steps must be in \[2, 1000000\], got 1"),
        (lambda: DiscreteTime("sqrt"), "unknown schedule 'sqrt'; choose from"),
        (lambda: DiscreteTime(steps=10**9), "steps must be in"),
        (lambda: DiscreteTime(beta_end=1.0), "beta_end must be below 1, got 1.0"),
        (lambda: DiscreteTime(beta_start=0.5), "need beta_start <= beta_end, got 0.5 and 0.02"),
        (lambda: DiscreteTime(max_beta=0.0), "max_beta must be positive"),
        (lambda: FlowTime(scale=0.0), "scale must be positive, got 0.0"),
        (
            lambda: FlowTime(destination="s"),
            "unknown destination 's'; choose from",
        ),
        (lambda: check_noise_embedding("log"), "unknown noise_embedding 'log'; choose from"),
        (lambda: check_noise_embedding(3), "unknown noise_embedding 3"),
        (lambda: embedding_from_json({"name": "vp"}), "unknown noise embedding 'vp'"),
        (lambda: embedding_from_json({"name": "vp_time", "M": 1}), r"unknown fields \['M'\]"),
        (lambda: embedding_from_json(None), "unknown noise_embedding 'None'"),
    ],
)
def test_bad_choices(make, message):
    with pytest.raises(ValueError, match=message):
        make()
