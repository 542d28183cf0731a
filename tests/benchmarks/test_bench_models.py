"""Networks are timed end to end; the numbers are not judged here."""

from dataclasses import replace

import pytest
import torch

from benchmarks import bench_models
from benchmarks.arms import Ready
from benchmarks.bench_models import Settings, measure
from benchmarks.outcome import FAILED, OURS, READY

pytestmark = pytest.mark.usefixtures("hasty")
SHORT = Settings(networks=("digits",), batches=(2,), rounds=1, compiled=False)
ARMS = ["official", "official-fp32", "eager", "ours"]


@pytest.mark.parametrize("name", ["digits", "ctm-tiny-ncsnpp", "ctm-tiny-adm"])
def test_every_arm_agrees_and_is_timed(name: str, tiny_presets: None) -> None:
    (outcomes,) = measure(replace(SHORT, networks=(name,)))
    assert [o.arm for o in outcomes] == ARMS
    for o in outcomes:
        assert o.status == READY, o
        assert o.median > 0 and o.flops > 0 and o.matmul_share > 0
        assert o.error < (1e-5 if o.dtype == "float32" else 0.05)
    assert [o.kind for o in outcomes].count(OURS) == 1


def test_batches_networks_and_arms_are_chosen() -> None:
    settings = replace(SHORT, networks=("digits", "ctm-digits"), batches=(1, 3), arms=("eager",))
    found = [(o.network, o.batch, o.arm) for batch in measure(settings) for o in batch]
    assert found == [
        (network, batch, arm)
        for network in ("digits", "ctm-digits")
        for batch in (1, 3)
        for arm in ("eager",)
    ]


def test_in_float32_there_is_one_official_arm() -> None:
    (outcomes,) = measure(replace(SHORT, dtype=torch.float32))
    assert [o.arm for o in outcomes] == ["official", "eager", "ours"]
    assert outcomes[-1].ratio_to_official == outcomes[-1].ratio_to_official_fp32 > 0


def test_a_network_that_answers_wrongly_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bench_models.ready

    def wrong(case, net, call, note=""):
        built = right(case, net, call, note)
        return Ready(built.work, lambda: {"output": 1.5 * built.work()})

    monkeypatch.setattr(bench_models, "ready", wrong)
    (outcomes,) = measure(replace(SHORT, arms=("official", "ours")))
    assert [o.status for o in outcomes] == [FAILED, FAILED]
    assert "disagrees" in outcomes[0].note


def test_compiled_arms_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def stand_in(function, **options):
        modes.append(options["mode"])
        return function

    monkeypatch.setattr(torch, "compile", stand_in)
    arms = ("official", "compile", "compile-max-autotune")
    (outcomes,) = measure(replace(SHORT, compiled=True, arms=arms))
    assert [(o.arm, o.status) for o in outcomes] == [(arm, READY) for arm in arms]
    assert modes == [None, "max-autotune"]


def test_a_compiler_that_gives_up_does_not_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(function, **options):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", refuse)
    (outcomes,) = measure(replace(SHORT, compiled=True, arms=("compile", "ours")))
    assert [o.status for o in outcomes] == [FAILED, READY]
    assert outcomes[0].note == "RuntimeError: no compiler here"


def test_unknown_networks_are_named() -> None:
    with pytest.raises(ValueError, match="unknown network 'gelu'"):
        list(measure(replace(SHORT, networks=("gelu",))))
