"""Published preconditionings by name."""

import pytest

from ctm_fast.checkpoints.parametrisation import PRECONDS, parametrisation, usual_embedding
from ctm_fast.noise_embeddings import DiscreteTime, VPTime
from ctm_fast.precond import CM, EDM, Ect, Epsilon, Preconditioning, Score, Variance
from tests.models.tiny import ADM, SONG


@pytest.mark.parametrize(
    ("name", "inner", "embedding", "low", "high"),
    [
        ("edm", EDM(0.5), "log_250", 0.002, 80),
        ("cm", CM(0.5, 0.002), "log_250", 0.002, 80),
        ("ect", Ect(0.5), "log_250", 0.002, 80),
        ("vp", Epsilon(0.5), VPTime(), 0.0010005, 152.167),
        ("ve", Score(0.5), "half_log", 0.02, 100),
        ("iddpm", Epsilon(0.5), DiscreteTime("iddpm"), 0.0064254, 20291.17),
        ("linear", Epsilon(0.5), DiscreteTime("linear"), 0.0100005, 157.4068),
        ("cosine", Epsilon(0.5), DiscreteTime("cosine"), 0.0064254, 20291.17),
    ],
)
def test_names(name, inner, embedding, low, high):
    precond, sigma_min, sigma_max = parametrisation(name, "log_250", {})
    assert (precond.inner, precond.noise_embedding) == (inner, embedding)
    assert sigma_min == pytest.approx(low, rel=1e-4) and sigma_max == pytest.approx(high, rel=1e-4)
    asked = parametrisation("edm", "log_250", {"precond": name})
    assert asked[0] == precond and name in PRECONDS


def test_overrides_are_used_and_removed():
    overrides = {"precond": "cm", "sigma_data": 0.3, "sigma_min": 0.01, "sigma_max": 50, "x": 1}
    precond, low, high = parametrisation("edm", "quarter_log", overrides)
    assert (precond.inner, low, high, overrides) == (CM(0.3, 0.01), 0.01, 50, {"x": 1})


def test_whole_preconditionings():
    own = Preconditioning(EDM(0.7), Variance(), DiscreteTime("linear"))
    precond, low, _ = parametrisation("edm", "log_250", {"precond": own})
    assert precond is own and low == pytest.approx(0.0100005, rel=1e-4)
    with pytest.raises(ValueError, match="give one of them"):
        parametrisation("edm", "log_250", {"precond": own, "sigma_data": 0.5})


def test_unknown_names():
    with pytest.raises(ValueError, match="unknown precond 'ddim'; choose from"):
        parametrisation("edm", "log_250", {"precond": "ddim"})


def test_usual_embeddings():
    assert usual_embedding(SONG, "own") == "quarter_log"
    assert usual_embedding(ADM, "edm") == "quarter_log"
    assert [usual_embedding(ADM, layout) for layout in ("adm", "own")] == ["log_250"] * 2
