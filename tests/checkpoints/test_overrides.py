"""Overrides: a wrong name or value is refused by name, before a file is read."""

import pytest

from ctm_fast.checkpoints.overrides import allowed_overrides, checked_overrides
from ctm_fast.precond import EDM, Preconditioning

GOOD = {
    "kind": "consistency",
    "sigma_max": 80,
    "img_resolution": 64,
    "channel_mult": [1, 2],
    "dropout": 0,
    "destination": True,
    "encoder": "skip",
    "which": "ema",
    "precond": Preconditioning(EDM(0.5)),
    "attn_resolutions": (),
}


def test_good_values():
    found = checked_overrides(GOOD)
    assert found == {**GOOD, "channel_mult": (1, 2)}
    assert isinstance(found["sigma_max"], float)
    assert checked_overrides({"precond": "edm"}) == {"precond": "edm"}
    assert set(GOOD) <= set(allowed_overrides())


def test_unknown_names():
    with pytest.raises(ValueError, match=r"\['chanels'\]; allowed are .*channel_mult"):
        checked_overrides({"chanels": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("kind", value) for value in (None, "magic", ["denoiser"], {})],
        *[("sigma_min", value) for value in (0, -1.0, float("nan"), float("inf"), "1", True, [])],
        *[("sigma_data", 10**400), ("dropout", float("nan")), ("dropout", "x")],
        *[("img_resolution", value) for value in (8.0, "8", True, -1, 10**30, None)],
        *[("channel_mult", value) for value in (3, "12", [1.0], [True], [[1]], [-1], [1] * 100)],
        *[("destination", 1), ("encoder", 1), ("which", 1), ("precond", 1), ("family", None)],
    ],
)
def test_wrong_values(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        checked_overrides({name: value})
