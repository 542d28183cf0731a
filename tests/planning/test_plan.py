"""What is told of a run before it is started."""

import json

import pytest
import torch

from ctm_fast.losses import CTM, DSM, PseudoHuber
from ctm_fast.planning import Plan
from ctm_fast.planning import plan as module
from ctm_fast.planning.rates import Rate
from ctm_fast.presets import PRESETS
from ctm_fast.trainer import TrainConfig

GPU = Rate("a GPU", True, "ddpmpp-cifar10", "bfloat16", 64, 1e14, "2026-01-01", "abc")


def plan_of(name: str, **changes) -> Plan:
    preset = PRESETS[name]
    config = preset.train().replace(**changes)
    return Plan(preset.objective(), preset.network, preset.net_options, config)


def test_the_published_run() -> None:
    plan = plan_of("ctm-cifar10")
    rows = dict(plan.rows())
    assert rows["parameters"] == "student 60.4 M, teacher 55.73 M"
    assert rows["images"] == "256 a step, 25.6 M in all"
    assert rows["evaluations a step"].startswith("teacher 5.973 k")
    assert plan.flops == pytest.approx(1.42e12 * 25.6e6, rel=0.01)
    assert plan.networks.teacher.destination is False
    assert "microbatch 256: weights" in rows["memory"]
    assert rows["memory, other microbatches"].startswith("1: ")


def test_hours_are_those_of_measured_gpus_only(monkeypatch) -> None:
    plan = plan_of("ctm-cifar10")
    monkeypatch.setattr(module, "rates", list)
    assert dict(plan.rows())["GPU hours"] == "no GPU result is committed; not estimated"
    monkeypatch.setattr(module, "rates", lambda: [GPU])
    told = dict(plan.rows())["GPU hours"]
    assert told.startswith(f"{plan.flops / 1e14 / 3600:.3g} at 100 TFLOP/s in CTM's step")
    other = dict(plan_of("edm-ffhq64").rows())["GPU hours"]
    assert other == "no GPU result for edm-ffhq64 in float32; not estimated"


def test_time_on_a_cpu(monkeypatch) -> None:
    fields = {**vars(GPU), "gpu": False, "machine": "a CPU", "flops_per_second": 1e12}
    monkeypatch.setattr(module, "rates", lambda: [Rate(**fields)])
    assert dict(plan_of("ctm-cifar10").rows())["CPU time"].startswith("420 days at 1 TFLOP/s")
    assert "minutes" in dict(plan_of("ctm-cifar10", steps=1).rows())["CPU time"]


def test_processes_and_options(monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    rows = dict(plan_of("ctm-cifar10").rows())
    assert "each of 8 processes, microbatch 32: " in rows["memory"]
    config = TrainConfig(batch_size=4)
    small = Plan(DSM(), "digits", {"channel_mult": [1], "label_dim": 0}, config)
    assert small.networks.student.channel_mult == (1,)
    assert small.networks.teacher is None
    jumping = Plan(CTM(distance=PseudoHuber()), "digits", {}, config, torch.bfloat16)
    assert jumping.networks.student.destination and jumping.networks.teacher is not None
    assert json.loads(json.dumps(dict(small.rows())))["parameters"].startswith("student")


def test_refusals() -> None:
    for network, options, message in [
        ("resnet", {}, "unknown network 'resnet'"),
        ("digits", {"depth": 3}, r"network 'digits' has no \['depth'\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            Plan(DSM(), network, options, TrainConfig()).networks  # noqa: B018
