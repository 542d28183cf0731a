"""What is drawn of the collected results."""

import dataclasses

import pytest

from benchmarks.collected import Line, Machine
from benchmarks.plots import kernel_plots, outcome_plots
from tests.benchmarks.measured import XEON, outcomes, record


@pytest.fixture(scope="module")
def machine() -> Machine:
    results = [*outcomes(batch=1), *outcomes(batch=8), *outcomes("step", seconds={"ours": 1.0})]
    records = [record("one", 1.0), record("two", 4.0), record("one", 2.0, mode="forward+backward")]
    return Machine(
        "Xeon(R), 2 threads",
        False,
        kernels=[Line(XEON, "a", one) for one in records],
        outcomes=[Line(XEON, "b", one) for one in results],
    )


def test_kernels(machine: Machine) -> None:
    (plot,) = kernel_plots(machine)
    assert plot.name == "xeon-2-threads-kernels"
    assert plot.panels == (("", {"jump": [1.0, 4.0], "jump, with backward": [2.0]}),)
    assert list(kernel_plots(dataclasses.replace(machine, kernels=[]))) == []


def test_ratios_and_speeds(machine: Machine) -> None:
    ratios, speeds = outcome_plots(machine, "models")
    ((heading, cases),) = ratios.panels
    assert heading == "digits, dtype bfloat16" and list(cases) == ["batch 1", "batch 8"]
    assert cases["batch 8"] == {"official": 0.4, "eager": 0.8, "compile": 1.0, "ours": 1.6}
    ((heading, arms),) = speeds.panels
    assert heading == "digits, dtype bfloat16" and arms["ours"] == {"1": 1.0, "8": 8.0}
    assert len(set(ratios.colours.values())) == 4 and ratios.colours == speeds.colours


def test_one_arm_and_one_batch_are_no_plot(machine: Machine) -> None:
    assert list(outcome_plots(machine, "step")) == []
    assert list(outcome_plots(machine, "sampler")) == []


def test_long_descriptions_are_headings() -> None:
    words = ", steps 17, microbatch 11, own_microbatch None, distance pseudo_huber"
    one = [dataclasses.replace(o, case=o.case + words) for o in outcomes("step", batch=4)]
    machine = Machine("xeon", False, outcomes=[Line(XEON, "b", o) for o in one])
    (plot,) = outcome_plots(machine, "step")
    ((heading, cases),) = plot.panels
    assert list(cases) == ["batch 4"] and heading == f"digits, dtype bfloat16{words}"


def test_many_arms_have_colours() -> None:
    seconds = {f"arm {i}": 1.0 for i in range(20)}
    many = [Line(XEON, "b", one) for one in outcomes(seconds=seconds)]
    (plot,) = outcome_plots(Machine("xeon", False, outcomes=many), "models")
    assert len(plot.colours) == 20
