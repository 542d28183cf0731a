"""Training options: ranges, JSON round trip, learning-rate ramps."""

import dataclasses
import json

import pytest

from ctm_fast.trainer import TrainConfig
from tests.trainer import tiny


def test_json_round_trip():
    config = TrainConfig(steps=7, microbatch=4, ema=(0.9, 0.99), clip_grad=1.0, precision="bf16")
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_a_runs_config_file_is_accepted_back(tmp_path):
    first = tiny.trainer(out=tmp_path, steps=1, ema=(0.5, 0.9), seed=3)
    first.fit()
    assert TrainConfig.read(tmp_path / "config.json") == first.config
    again = tiny.trainer(config=tmp_path / "config.json", out=tmp_path)
    assert again.config.ema == (0.5, 0.9)
    assert again.step == 1


def test_unknown_fields_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="learning_rates"):
        TrainConfig.from_json({"learning_rates": 1})
    with pytest.raises(ValueError, match=r"batchsize.*batch_size"):
        TrainConfig().replace(batchsize=4)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        TrainConfig.read(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="absent"):
        TrainConfig.read(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1.5),
        ("batch_size", True),
        ("microbatch", 0),
        ("optimizer", "sgd"),
        ("precision", "fp8"),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("lr", "1e-3"),
        ("eps", -1e-8),
        ("betas", (0.9,)),
        ("betas", (0.9, 1.0)),
        ("ema", (1.0,)),
        ("ema", (-0.1,)),
        ("ema_halflife_kimg", (0.0,)),
        ("target_ema", 1.5),
        ("clip_grad", 0.0),
        ("keep", 0),
        ("log_every", 0),
        ("checkpoint_every", -1),
        ("seed", 0.5),
        ("progress_bar", 1),
    ],
)
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})


def test_learning_rate_warms_up_and_cools_down():
    config = TrainConfig(steps=10, lr=1.0, lr_warmup=4, lr_cooldown=2)
    rates = [config.learning_rate(step) for step in range(10)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5]
    assert TrainConfig(steps=3, lr=2.0).learning_rate(0) == 2.0


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0


def test_learning_rate_that_falls_as_one_over_the_root() -> None:
    """ECT on ImageNet-64: lr / sqrt(max(step / 2000, 1))."""
    config = TrainConfig(steps=20_000, lr=1e-3, lr_decay_from=2_000)
    for step, expected in [(0, 1e-3), (2_000, 1e-3), (8_000, 5e-4), (18_000, 1e-3 / 3)]:
        assert config.learning_rate(step) == pytest.approx(expected)
    assert TrainConfig(lr=1e-3).learning_rate(9_000) == 1e-3
    with pytest.raises(ValueError, match="lr_decay_from must be a whole number"):
        TrainConfig(lr_decay_from=-1)
