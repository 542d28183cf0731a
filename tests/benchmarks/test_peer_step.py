"""The step of a clone is called on our images; where there is none, the table says so."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bench_step import Settings, measure
from benchmarks.outcome import ABSENT, PEER, READY
from ctm_fast.models import PRESETS

from .fake_clones import fake_ctm, fake_edm
from .tiny_networks import SONG

pytestmark = pytest.mark.usefixtures("hasty", "tiny_presets")


def test_its_losses_are_differentiated_microbatch_by_microbatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = replace(SONG, img_resolution=32, attn_resolutions=(16,))
    monkeypatch.setitem(PRESETS, "tiny-32", wide)
    settings = Settings(
        networks=("tiny-32",),
        batches=(3,),
        steps=(1,),
        microbatch=2,
        rounds=1,
        arms=("sony-ctm", "edm"),
        peers=(fake_ctm(tmp_path / "a", root="code/"), fake_edm(tmp_path / "b")),
    )
    sony, edm = next(measure(settings))
    assert (sony.arm, sony.kind, sony.status) == ("sony-ctm", PEER, READY), sony
    assert sony.error is None and "not judged" in sony.note and sony.dtype == "float32"
    assert (edm.status, edm.note) == (ABSENT, "edm has no training step of CTM")
    small = replace(settings, networks=("tiny-song",), arms=("sony-ctm",))
    ((absent,),) = measure(small)
    assert absent.status == ABSENT and "32 x 32 pixels only" in absent.note
