"""Rates of the package: those of the committed results."""

import json
from pathlib import Path

import pytest

from benchmarks.collected import collect
from benchmarks.rates import text_of
from ctm_fast.planning.rates import FILE, Rate, fitting, rates


def rate(**changes) -> Rate:
    plain = dict(
        machine="a GPU",
        gpu=True,
        network="ddpmpp-cifar10",
        dtype="bfloat16",
        batch=64,
        flops_per_second=1e14,
        date="2026-01-01",
        commit="abc",
    )
    return Rate(**{**plain, **changes})


def test_they_are_the_committed_results() -> None:
    """If not: python -m benchmarks page."""
    assert FILE.read_text() == text_of(collect())
    assert all(isinstance(one, Rate) for one in rates())


def test_hours() -> None:
    assert rate().hours(3.6e19) == pytest.approx(100)
    assert str(rate()).startswith("100 TFLOP/s in CTM's step with ddpmpp-cifar10, bfloat16")


def test_which_rates_fit() -> None:
    slow, cpu = rate(flops_per_second=1e13), rate(machine="a CPU", gpu=False)
    full, other = rate(dtype="float32"), rate(machine="another GPU", flops_per_second=2e14)
    table = [slow, rate(), cpu, full, other, rate(network="adm-imagenet64")]
    found = fitting("ctm-ddpmpp-cifar10", "float16", gpu=True, table=table)
    assert found == [other, rate()]
    same = rate(dtype="float16", flops_per_second=1e12)
    assert fitting("ddpmpp-cifar10", "float16", gpu=True, table=[rate(), same]) == [same]
    assert fitting("ddpmpp-cifar10", "float32", gpu=True, table=table) == [full]
    assert fitting("ddpmpp-cifar10", "bfloat16", gpu=False, table=table) == [cpu]
    assert fitting("edm-ffhq64", "bfloat16", gpu=True, table=table) == []


def test_a_table_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps([vars(rate())]))
    assert rates(file) == [rate()]
