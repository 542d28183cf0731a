"""Networks of clones take part with our weights, or say why they do not."""

from pathlib import Path

import pytest
import torch

from benchmarks import bench_models, bench_sampler, bench_solve, networks
from benchmarks.arms import Absent
from benchmarks.outcome import ABSENT, FAILED, PEER, READY
from benchmarks.peer_networks import built
from benchmarks.peers import recognise

from .fake_clones import fake_ctm, fake_edm

pytestmark = pytest.mark.usefixtures("hasty", "tiny_presets")


def settings(module, folder: Path, name: str):
    options = {"rounds": 1, "compiled": False, "networks": (name,), "batches": (2,)}
    return module.Settings(**options, peers=(folder,))


def test_every_way_to_run_a_network_of_a_clone_is_timed(tmp_path: Path) -> None:
    given = settings(bench_models, fake_edm(tmp_path), "tiny-song")
    (outcomes,) = bench_models.measure(given)
    peers = [o for o in outcomes if o.kind == PEER]
    assert [o.arm for o in peers] == ["edm", "edm fp32", "edm channels-last"]
    assert all(o.status == READY and o.error < 0.05 for o in peers), peers
    assert [o.dtype for o in peers] == ["bfloat16", "float32", "bfloat16"]


def test_solve_and_sampler_call_it(tmp_path: Path) -> None:
    clone = fake_ctm(tmp_path)
    for module, name in ((bench_solve, "tiny-song"), (bench_sampler, "ctm-tiny-song")):
        outcomes = next(module.measure(settings(module, clone, name)))
        assert outcomes[-1].arm == "ctm-cifar10"
        assert outcomes[-1].status == READY, outcomes[-1]
        assert "our writing of the published" in outcomes[-1].note


def test_a_wrong_network_is_not_timed(tmp_path: Path) -> None:
    folder = fake_edm(tmp_path)
    file = folder / "training" / "networks.py"
    file.write_text(file.read_text().replace(".to(x.dtype)", ".to(x.dtype) * 1.5"))
    (outcomes,) = bench_models.measure(settings(bench_models, folder, "tiny-song"))
    assert {o.status for o in outcomes if o.kind == PEER} == {FAILED}
    assert {o.status for o in outcomes if o.kind != PEER} == {READY}


def test_what_a_clone_does_not_have_is_said(tmp_path: Path) -> None:
    folder = fake_edm(tmp_path)
    (outcomes,) = bench_models.measure(settings(bench_models, folder, "ctm-tiny-song"))
    assert {(o.status, o.note) for o in outcomes if o.kind == PEER} == {
        (ABSENT, "edm has no destination embedding")
    }
    with pytest.raises(Absent, match="no adaptive scale"):
        built(recognise(folder), networks.network("digits"))


def test_labels_are_one_hot_rows(tmp_path: Path) -> None:
    net = networks.network("tiny-ncsnpp")
    found = built(recognise(fake_edm(tmp_path)), net)
    x, c_noise, to, labels = networks.inputs(net, 2)
    (_, _, hot), _ = found.arguments(x, c_noise, to, labels)
    assert torch.equal(hot.argmax(1), labels) and hot.shape == (2, 3)
