"""A step that does not fit is repeated with smaller microbatches, with the result of those."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ctm_fast.losses import CTM, DSM, SCT, Batch, Models
from ctm_fast.trainer import OutOfMemory
from ctm_fast.trainer.accumulation import Accumulation
from tests.trainer import processes, tiny


@dataclasses.dataclass(frozen=True)
class Narrow(DSM):
    """DSM on a device that holds so many images."""

    images: int = 3

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        loss = super().loss(term, batch, models, progress)
        if len(batch) > self.images:
            raise torch.OutOfMemoryError("no room")
        return loss


@dataclasses.dataclass(frozen=True)
class NarrowCTM(CTM):
    """CTM on a device that holds so many images, in its solve or in its second term."""

    images: int = 3
    solved: int = 8

    def prepare(self, batch: Batch, models: Models, progress: float = 0.0) -> None:
        super().prepare(batch, models, progress)
        if len(batch) > self.solved:
            raise torch.OutOfMemoryError("no room")

    def loss(self, term: str, batch: Batch, models: Models, progress: float = 0.0) -> Tensor:
        if term == "dsm" and len(batch) > self.images:
            raise torch.OutOfMemoryError("no room")
        return super().loss(term, batch, models, progress)

    def losses(self, batch: Batch, models: Models, progress: float = 0.0) -> dict[str, Tensor]:
        if len(batch) > self.images:
            raise torch.OutOfMemoryError("no room")
        return super().losses(batch, models, progress)


def log_of(out: Path) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in (out / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k in ("step", "loss", "grad_norm")} for line in lines]


@pytest.mark.parametrize("objective", [Narrow(), NarrowCTM(num_scales=4)], ids=["dsm", "ctm"])
def test_the_run_is_that_of_the_microbatch_that_fits(objective, tmp_path, capsys) -> None:
    runs = {}
    for name, microbatch in (("short", None), ("chosen", 2)):
        runs[name] = tiny.trainer(
            objective, out=tmp_path / name, microbatch=microbatch, dropout=0.5, log_every=1
        )
        runs[name].fit()
    told = [line for line in capsys.readouterr().out.splitlines() if "memory" in line]
    assert len(told) == 2, "one line per halving: 8 to 4, and 4 to 2"
    assert "step 0 with 4 images" in told[1] and "microbatch 2, the global batch of 8" in told[1]
    assert log_of(tmp_path / "short") == log_of(tmp_path / "chosen")
    for (name, p), q in zip(
        runs["short"].student.state_dict().items(),
        runs["chosen"].student.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(p, q), name
    last = (tmp_path / "short" / "log.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["microbatch"] == 2
    assert "microbatch" not in json.loads(
        (tmp_path / "chosen" / "log.jsonl").read_text().split("\n")[0]
    )


def test_one_pass_is_given_up_first() -> None:
    said: list[str] = []
    run = tiny.trainer(NarrowCTM(num_scales=4, images=4), one_pass=True, steps=1)
    run._gradients.say = said.append
    run.fit()
    assert not run._gradients.one_pass and run._gradients.microbatch == 4
    assert "one term after the other" in said[0] and "microbatch 4" in said[1]


def test_refusals() -> None:
    with pytest.raises(OutOfMemory, match="with one image at a time: weights, gradients"):
        tiny.trainer(Narrow(images=0)).fit()
    with pytest.raises(OutOfMemory, match="in work on 1 of the 8 images of a process, which"):
        tiny.trainer(NarrowCTM(num_scales=4, solved=0)).fit()
    whole = NarrowCTM(num_scales=4, solved=4)
    object.__setattr__(whole, "whole_batch", True)
    with pytest.raises(OutOfMemory, match="in work on 8 of the 8 images of a process, which"):
        tiny.trainer(whole).fit()


@pytest.mark.parametrize("pairs", [1, 2])
def test_the_solve_is_halved_by_itself(pairs, tmp_path) -> None:
    """The loss's microbatch stays, and the parts' results are those of the whole batch."""
    runs, said = {}, []
    for name, solved in (("whole", 8), ("parts", 3)):
        objective = NarrowCTM(num_scales=4, images=8, solved=solved, pairs=pairs)
        runs[name] = tiny.trainer(objective, out=tmp_path / name, steps=2, log_every=1)
        runs[name]._gradients.say = said.append
        runs[name].fit()
    assert ["8 images at a time" in said[0], "repeated with 2" in said[1]] == [True, True]
    assert len(said) == 2, "the second step begins with what fitted"
    for whole, parts in zip(log_of(tmp_path / "whole"), log_of(tmp_path / "parts"), strict=True):
        assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        assert parts["grad_norm"] == pytest.approx(whole["grad_norm"], rel=1e-5)
    last = json.loads((tmp_path / "parts" / "log.jsonl").read_text().splitlines()[-1])
    assert last["prepared"] == 2 and "microbatch" not in last


def test_sets_of_images_are_not_split() -> None:
    assert SCT().whole_batch


def test_what_a_failed_attempt_moved_is_put_back() -> None:
    """Running statistics of a companion see the step once."""
    run = tiny.trainer(steps=1)
    norm = torch.nn.BatchNorm2d(1)
    compute = run._gradients
    compute._buffers = lambda: list(norm.buffers())

    def attempt() -> None:
        norm(torch.randn(2, 1, 3, 3))
        raise torch.OutOfMemoryError("no room")

    assert not compute._fits(attempt)
    assert (int(norm.num_batches_tracked), float(norm.running_mean)) == (0, 0.0)
    assert all(p.grad is None for p in compute.parameters)


def test_the_trainer_uses_it() -> None:
    assert isinstance(tiny.trainer()._gradients, Accumulation)
    assert tiny.trainer()._gradients.noted == {}


def test_processes_agree(tmp_path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    worker = ("-m", "tests.trainer.memory_worker", str(tmp_path))
    with processes.program(*launcher, *worker) as program:
        status, told = processes.finished(program)
    assert status == 0, told
    assert told.count("out of memory in step 0") == 2, "8 to 4 and 4 to 2, told by one process"
    kept = {file.stem: load_file(file) for file in tmp_path.glob("*.safetensors")}
    assert sorted(kept) == ["chosen-0", "chosen-1", "short-0", "short-1"]
    for name, weight in kept["chosen-0"].items():
        for other in ("chosen-1", "short-0", "short-1"):
            assert torch.equal(kept[other][name], weight), (other, name)
    assert "process 1 ran out of memory in step 3" in (tmp_path / "late-1.txt").read_text()
