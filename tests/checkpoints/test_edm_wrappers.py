"""What the wrappers around published networks say about noise levels and scalings."""

import math

import pytest
import torch

from ctm_fast.checkpoints.edm_wrappers import parametrised
from ctm_fast.precond import EDM, Ect, Preconditioning
from ctm_fast.wrappers.edm import WRAPPERS

# sigma_min and sigma_max that the published classes compute from their default arguments.
COMPUTED = {"VPPrecond": (0.0009765625, 152.16697692871094), "VEPrecond": (0.02, 100.0)}
COMPUTED["iDDPMPrecond"] = (0.006422337144613266, 20291.169921875)
# Outputs of the published classes at (X, T) around F = x + 0.3 cos(c_noise).
X = torch.tensor([0.7, -0.4, 1.1, -2.0, 55.0]).double()
T = torch.tensor([0.003, 0.02, 0.5, 3.0, 80.0]).double()
OUTPUTS = {
    "EDMPrecond": (0.704281, -0.4119861, 1.204478, -0.2359649, 0.4145229),
    "VPPrecond": (0.6970035, -0.386021, 0.4598831, 0.2224264, 21.34313),
    "VEPrecond": (0.7029785, -0.4086421, 1.677519, -7.172973, 4434.505),
    "iDDPMPrecond": (0.6974137, -0.3977626, 0.4581178, -0.327167, 4.123367),
    "ECMPrecond": (0.7, -0.4102694, 1.203861, -0.2358883, 0.4145077),
}


def said(name, overrides=None, **attributes):
    notes, overrides = [], overrides or {}
    result = parametrised(WRAPPERS[name], attributes, overrides, notes)
    assert not overrides
    return *result, notes


@pytest.mark.parametrize("name", WRAPPERS)
def test_defaults_are_the_published_ones(name):
    precond, low, high, notes = said(name)
    P, Q = precond.denoise_coefficients(T)
    F = precond.c_in(T) * X + 0.3 * precond.c_noise(T).cos()
    error = (P * X + Q * F - torch.tensor(OUTPUTS[name]).double()).abs()
    # Their float32 c_noise of up to 932 is good to 6e-5, and Q is up to 80.
    assert bool((error < 2e-5 * (1 + Q.abs())).all()), error
    if name in COMPUTED:
        # They compute the lowest level in float32, which leaves it 2 digits.
        assert low == pytest.approx(COMPUTED[name][0], rel=0.03) and not notes
        assert high == pytest.approx(COMPUTED[name][1], rel=1e-6)
    else:
        assert high == 80.0 and low == (0.003 if name == "ECMPrecond" else 0.002)
        assert len(notes) == (1 if name == "ECMPrecond" else 2)


def test_stored_levels_come_before_computed_ones_and_overrides_before_both():
    assert said("VPPrecond", sigma_min=0.5, sigma_max=9)[1:] == (0.5, 9.0, [])
    changed = said("EDMPrecond", {"sigma_min": 0.1, "sigma_max": 50.0, "sigma_data": 0.2})
    assert changed == (Preconditioning(EDM(0.2)), 0.1, 50.0, [])
    assert said("EDMPrecond", {"sigma_max": 50.0}, sigma_min=0.01)[1:] == (0.01, 50.0, [])


def test_the_boundary_shift_is_what_is_stored():
    assert said("ECMPrecond", sigma_min=0.01)[0].inner == Ect(0.5, 0.01)
    low = said("ECMPrecond", {"sigma_min": 0.1}, sigma_min=0.01)
    assert low[0].inner == Ect(0.5, 0.01) and low[1] == 0.1
    assert said("ECMPrecond", {"precond": "edm"}, sigma_min=0.01)[0].inner == EDM(0.5)


def test_a_whole_preconditioning():
    chosen = Preconditioning(EDM(0.1), noise_embedding="log_250")
    assert said("VEPrecond", {"precond": chosen})[0] is chosen


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("VPPrecond", {"M": 1}, "steps must be in"),
        ("VPPrecond", {"beta_min": 0}, "beta_min must be positive"),
        ("iDDPMPrecond", {"C_1": 0}, "max_beta must be below 1"),
        ("EDMPrecond", {"sigma_data": 0}, "sigma_data must be positive"),
        ("VPPrecond", {"M": math.inf}, "M must be a whole number"),
        ("VPPrecond", {"beta_d": 1e9}, "beta_d=.* has no finite noise levels"),
    ],
)
def test_attributes_out_of_range(name, attributes, message):
    with pytest.raises(ValueError, match=message):
        said(name, **attributes)
