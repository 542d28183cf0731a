"""What the classes around published networks do; their formulas are in tests/checkpoints."""

import math

import pytest
import torch

from ctm_fast.precond import EDM, Ect, Preconditioning
from ctm_fast.wrappers.edm import WRAPPERS, number
from ctm_fast.wrappers.known import EDM_KINDS


def test_the_attributes_are_what_it_was_made_with():
    assert WRAPPERS["EDMPrecond"].precond({"sigma_data": 0.2}) == Preconditioning(EDM(0.2))
    shifted = WRAPPERS["ECMPrecond"].precond({"sigma_min": torch.tensor(0.01)})
    assert shifted.inner == Ect(0.5, pytest.approx(0.01))
    assert WRAPPERS["VPPrecond"].precond({"M": 500}).noise_embedding.steps == 500
    assert WRAPPERS["VEPrecond"].levels({}) == (0.02, 100.0)


def test_all_of_them_are_known_to_the_samplers():
    assert {name: wrapper.kind for name, wrapper in WRAPPERS.items()} == EDM_KINDS


def test_numbers():
    assert number({"a": 3}, "a", 1.0) == 3.0 and number({}, "a", 1.0) == 1.0
    assert number({"a": torch.tensor([0.5])}, "a", 1.0) == 0.5
    for bad in ("half", None, True, math.nan, [1], torch.zeros(2)):
        with pytest.raises(ValueError, match=r"the network's a is a .*, not a number"):
            number({"a": bad}, "a", 1.0)
