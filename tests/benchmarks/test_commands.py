"""The commands, from their options to a file."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bench_models, bench_sampler, bench_solve, bench_step
from benchmarks.__main__ import main
from benchmarks.commands import All, Models, Samplers, Solve, Step
from benchmarks.outcome import READY, read

pytestmark = pytest.mark.usefixtures("hasty")
SHORT = ["--device", "cpu", "--rounds", "1", "--no-compile", "--arms", "official", "ours"]


def test_all_runs_every_benchmark_and_writes_what_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture, threads: None
) -> None:
    file = tmp_path / "a.jsonl"
    options = ["--networks", "digits", "--batches", "1", "--threads", "1", "--out", str(file)]
    assert main(["all", *SHORT, *options]) == 0
    assert torch.get_num_threads() == 1
    found = read(file)
    assert {about["threads"] for about, _ in found} == {1}
    assert [o.status for _, o in found] == [READY] * 10
    assert list(dict.fromkeys((o.bench, o.network) for _, o in found)) == [
        ("models", "digits"),
        ("solve", "digits"),
        ("step", "digits"),
        ("sampler", "ctm-digits"),
    ]
    printed = capsys.readouterr()
    assert "x best other" in printed.out and "sampler: ours is" in printed.out
    assert "first call after" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--networks", "gelu"], "unknown network 'gelu'"),
        (["models", "--networks", "digits", "--arms", "gelu"], "no arm is called ['gelu']"),
        (["solve", "--rounds", "0"], "rounds must be at least 1, got 0"),
        (["step", "--threads", "0"], "threads must be at least 1, got 0"),
        (["sampler", "--batches", "0"], "batches must be at least 1"),
        (["sampler", "--networks", "digits"], "cannot jump"),
        (["models", "--peer", "no-such-folder"], "is not a folder"),
    ],
)
def test_wrong_use(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert main([*arguments, "--device", "cpu", "--out", str(tmp_path / "a.jsonl")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_missing_gpu_is_named(capsys: pytest.CaptureFixture) -> None:
    assert main(["models", "--device", "cuda"]) == 2
    assert "there is no CUDA GPU" in capsys.readouterr().err


def settings_of(command: Any, device: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    told = []
    for module in (bench_models, bench_solve, bench_step, bench_sampler):
        monkeypatch.setattr(module, "measure", lambda settings: told.append(settings) or [])
    list(command.measure(device))
    return told


def test_a_gpu_has_other_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu,) = settings_of(Models(), "cpu", monkeypatch)
    (gpu,) = settings_of(Models(), "cuda", monkeypatch)
    assert cpu.batches == (1, 8) and gpu.batches == (1, 8, 11, 32, 64, 128)
    (step,) = settings_of(Step(), "cuda", monkeypatch)
    assert step.batches == (256,) and (step.microbatch, step.own_microbatch) == (11, 64)
    (step,) = settings_of(Step(), "cpu", monkeypatch)
    assert step.batches == (4,) and step.steps == (17,) and step.own_microbatch is None


def test_options_reach_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    command = Solve(steps=(3,), batches=(5,), dtype="float16", compile=False, peer=(Path("x"),))
    (solve,) = settings_of(command, "cuda", monkeypatch)
    assert solve.steps == (3,) and solve.batches == (5,) and solve.dtype == torch.float16
    assert solve.device == "cuda" and not solve.compiled and solve.peers == (Path("x"),)
    (sampler,) = settings_of(Samplers(steps=(4,)), "cpu", monkeypatch)
    assert sampler.steps == (4,) and sampler.batches == (1, 8, 64)


def test_all_takes_the_network_that_suits(monkeypatch: pytest.MonkeyPatch) -> None:
    told = settings_of(All(networks=("ctm-digits",)), "cpu", monkeypatch)
    assert [type(s).__module__.split("_")[-1] for s in told] == ["models", "sampler"]
    assert len(settings_of(All(), "cpu", monkeypatch)) == 4
