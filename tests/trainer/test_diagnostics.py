"""Numbers of an objective in the log: means over the global batch, only of steps that have one."""

import dataclasses
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from ctm_fast.losses import DSM, SCT, Batch
from ctm_fast.trainer.diagnostics import diagnosed, names_of
from tests.trainer import tiny
from tests.trainer.test_log import lines

CPU = torch.device("cpu")


def test_shares_add_up_to_the_mean():
    objective = SimpleNamespace(diagnostics=("ess", "rows", "absent", "shared"))
    draw = {"ess": torch.arange(4.0), "rows": torch.arange(8).view(4, 2), "shared": 3}
    batch = Batch(torch.zeros(4, 1, 4, 4), None, draw)
    halves = [diagnosed(objective, batch.slice(a, a + 2), 4, CPU) for a in (0, 2)]
    total = sum(halves)
    assert total[:2].tolist() == [1.5, 3.5]
    assert total[2:].isnan().all()
    assert diagnosed(DSM(), batch, 4, CPU).shape == (0,)
    assert names_of(SCT()) == ("ess",) and names_of(DSM()) == ()


@dataclasses.dataclass(frozen=True)
class Telling(DSM):
    """DSM that tells the noise level of every second step."""

    diagnostics: ClassVar[tuple[str, ...]] = ("level",)

    def prepare(self, batch, models, progress=0.0):
        super().prepare(batch, models, progress)
        if batch.draw["step"] % 2:
            batch.draw["level"] = torch.full((len(batch),), float(batch.draw["step"]))


def test_lines_of_a_run_and_of_a_resumed_one(tmp_path):
    tiny.trainer(Telling(), out=tmp_path / "whole", steps=8, log_every=4).fit()
    for stop in (2, 8):
        tiny.trainer(Telling(), out=tmp_path / "pieces", steps=8, log_every=4).fit(stop)
    whole = lines(tmp_path / "whole")
    assert [line["diagnostics"]["level"] for line in whole] == [2.0, 6.0]
    assert lines(tmp_path / "pieces") == whole


@pytest.mark.parametrize("microbatch", [None, 3])
def test_effective_sample_size_of_stable_consistency_tuning(tmp_path, microbatch):
    run = tiny.trainer(SCT(), out=tmp_path, steps=2, log_every=1, microbatch=microbatch)
    run.fit()
    for line in lines(tmp_path):
        assert 1 <= line["diagnostics"]["ess"] <= 8
