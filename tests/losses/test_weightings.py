"""Weightings against their formulas."""

import pytest
import torch

from ctm_fast.losses.weightings import WEIGHTINGS, weighting

T = torch.tensor([0.01, 0.5, 2.0, 80.0], dtype=torch.float64)
S = T / 4

FORMULAS = {
    "uniform": lambda t: 1.0,
    "snr": lambda t: 1 / t**2,
    "snr_plus_one": lambda t: 1 / t**2 + 1,
    "truncated_snr": lambda t: max(1 / t**2, 1),
    "karras": lambda t: (t**2 + 0.49) / (t * 0.7) ** 2,
    "sqrt_t": lambda t: t**0.5,
    "inverse_gap": lambda t: 1 / (1 - 0.25),
    "inverse_step": lambda t: 1 / (0.75 * t),
}


@pytest.mark.parametrize("name", sorted(WEIGHTINGS))
def test_formula(name: str) -> None:
    expected = [FORMULAS[name](t) for t in T.tolist()]
    torch.testing.assert_close(
        weighting(name)(T, S, 0.7), torch.tensor(expected, dtype=torch.float64)
    )


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="unknown weighting 'min-snr'; choose from"):
        weighting("min-snr")
