"""Cards are complete, JSON, and refuse what is not."""

import dataclasses
import json

import pytest

from ctm_fast.evaluation import MetricCard, Number, environment

FIELDS = dict(
    metric="Frechet distance",
    reported="smallest of 3 seed ranges",
    samples=50_000,
    seeds=("0-49999", "50000-99999", "100000-149999"),
    labels="uniform",
    nfe=1,
    sampler={"method": "exact"},
    uint8="round",
    resize="bilinear",
    extractor={"name": "small", "sha256": None, "width": 6},
    reference={"file": "cifar10-32x32.npz"},
    model="ctm.safetensors",
    model_sha256=None,
    ema_rate=0.999,
    global_batch=256,
    training_step=100_000,
    batch_size=64,
    processes=8,
    environment=environment(),
)


def test_every_field_and_the_commit_are_written() -> None:
    card = MetricCard(**FIELDS)
    written = json.loads(json.dumps(card.to_json(), allow_nan=False))
    assert set(written) == {field.name for field in dataclasses.fields(card)} | {"commit"}
    # What an issue or a paper asks for, by name.
    for name in (
        *("samples", "extractor", "reference", "uint8", "resize", "ema_rate", "seeds", "nfe"),
        *("global_batch", "commit"),
    ):
        assert written[name] is not None, name
    assert written["commit"] == card.environment["commit"] and written["seeds"][0] == "0-49999"


def test_what_is_not_known_is_written_as_null() -> None:
    written = MetricCard(**{**FIELDS, "ema_rate": None, "nfe": None}).to_json()
    assert written["ema_rate"] is None and written["nfe"] is None


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_content_that_is_not_json(value) -> None:
    with pytest.raises(ValueError, match="must be JSON values"):
        MetricCard(**{**FIELDS, "reference": {"x": value}})


def test_number() -> None:
    number = Number("fid", 1.0, (1.0, 2.0), MetricCard(**FIELDS))
    written = number.to_json()
    assert written["value"] == 1.0 and written["values"] == [1.0, 2.0]
    assert written["card"]["metric"] == "Frechet distance"
