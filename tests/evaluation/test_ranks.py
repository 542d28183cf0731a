"""Two processes find what one finds; batches do not depend on how many there are."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ctm_fast.evaluation import ranks
from tests.evaluation.ranks_worker import results
from tests.trainer import processes


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """[(numbers and failure, tensors) of each process] under torchrun with gloo."""
    out = tmp_path_factory.mktemp("two_processes")
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    command = (*launcher, "-m", "tests.evaluation.ranks_worker", str(out))
    with processes.program(*command, CUDA_VISIBLE_DEVICES="") as process:
        status, output = processes.finished(process)
    assert status == 0, output
    return [
        (json.loads((out / f"{k}.json").read_text()), load_file(out / f"{k}.safetensors"))
        for k in (0, 1)
    ]


def test_two_processes_find_what_one_finds(two_processes) -> None:
    numbers, tensors = results()
    for found, theirs in two_processes:
        for name in ("features", "logits", "few"):
            assert torch.equal(theirs[name], tensors[name]), name
        for name in ("mean", "covariance", "few_mean"):
            torch.testing.assert_close(theirs[name], tensors[name], rtol=1e-13, atol=1e-13)
        assert set(found["numbers"]) == set(numbers)
        for name, number in found["numbers"].items():
            expected = pytest.approx(numbers[name]["values"], rel=1e-10, abs=1e-12)
            assert number["values"] == expected, name
            assert number["card"]["processes"] == 2 and number["card"]["samples"] == 46
            assert number["card"]["seeds"] == ["0-45", "46-91"]
    assert numbers["fid"]["value"] > 0.01, "nothing was compared"


def test_one_failing_process_stops_all(two_processes) -> None:
    assert [found["failure"] for found, _ in two_processes] == [
        "RuntimeError: process 1 stopped: ValueError: no such images",
        "ValueError: no such images",
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_batches_are_the_same_for_any_number_of_processes(size, monkeypatch) -> None:
    found = []
    for rank in range(size):
        monkeypatch.setattr(ranks, "rank_and_size", lambda rank=rank: (rank, size))
        found += list(ranks.own_batches(22, 5))
    assert sorted(found) == [(0, 5), (5, 10), (10, 15), (15, 20), (20, 22)]


def test_one_process_alone() -> None:
    assert ranks.rank_and_size() == (0, 1)
    rows = [(2, torch.ones(1, 3)), (0, torch.zeros(2, 3))]
    assert torch.equal(
        ranks.assembled(rows, 3, torch.empty(1, 3)), torch.tensor([0.0, 0, 1])[:, None].expand(3, 3)
    )
    ranks.raise_together(None)
    with pytest.raises(KeyError, match="own"):
        ranks.raise_together(KeyError("own"))
    assert ranks.all_agree(3)
