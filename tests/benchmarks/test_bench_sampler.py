"""Samplers are timed end to end; the numbers are not judged here."""

from dataclasses import replace

import pytest
import torch

from benchmarks.bench_sampler import Settings, measure
from benchmarks.outcome import READY

pytestmark = pytest.mark.usefixtures("hasty")
SHORT = Settings(networks=("ctm-digits",), batches=(3,), steps=(1, 2), rounds=1, compiled=False)


def test_every_arm_makes_the_same_images() -> None:
    for outcomes in measure(SHORT):
        assert [o.arm for o in outcomes] == ["official", "official-fp32", "eager", "ours"]
        for o in outcomes:
            assert o.status == READY, o
            assert o.error < (1e-4 if o.dtype == "float32" else 0.1)


def test_in_float32_the_images_are_the_same(tiny_presets: None) -> None:
    settings = replace(SHORT, networks=("ctm-tiny-adm",), dtype=torch.float32, steps=(2,))
    (outcomes,) = measure(settings)
    assert all(o.error < 1e-4 for o in outcomes), outcomes


def test_a_network_that_cannot_jump_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'digits' cannot jump; choose one of ctm-\*"):
        next(measure(replace(SHORT, networks=("digits",))))
