"""Random batches decide what a module is."""

import dataclasses

import pytest
import torch
from torch import nn

from ctm_fast.inference import foreign_match
from ctm_fast.inference.foreign_hosts import ADMNetwork, SongNetwork
from ctm_fast.inference.foreign_match import called, difference, network, rounding_of, tensors
from ctm_fast.inference.foreign_nets import state_of

from ..models.tiny import ADM, SONG
from . import stand_ins as host


def test_difference():
    one, two = torch.ones(1, 4).double(), torch.full((1, 4), 1.5).double()
    assert difference([two], [one]) == 0.5
    assert difference([one, two], [one, two]) == 0.0
    # An answer near the question, and one far from it.
    assert difference([two], [one], [((3 * one,), {})]) == 0.25
    assert difference([one * 1e-9], [one * 0]) == pytest.approx(1e-6)
    for answers in ([two, one * float("nan")], [one * float("nan"), two]):
        assert not difference(answers, [one, one]) <= 1e9
    with pytest.raises(ValueError, match=r"the output is \(1, 4\), ours \(1, 2\)"):
        difference([one[:, :2]], [one])


def matched(module, rounding=1e-4, kind=ADMNetwork, **overrides):
    return network(module.eval(), kind, state_of(module), 1, rounding, overrides)


@torch.no_grad()
def test_the_candidate_that_agrees():
    match = matched(host.UNetModel(ADM, order="legacy"))
    assert match.candidate.layout == "adm-legacy" and match.error < 1e-5
    assert len(match.expected) == 2 and match.expected[0].dtype == torch.float64


class Rough(host.UNetModel):
    def forward(self, x, timesteps, y=None):
        return super().forward(x, timesteps, y) * 1.001


@torch.no_grad()
def test_rounding_of_the_original_is_allowed_where_one_candidate_is_clearly_best():
    match = matched(Rough(ADM), rounding=5e-3)
    assert match.error == pytest.approx(1e-3, rel=0.1) and match.candidate.layout == "adm"
    with pytest.raises(ValueError, match=r"'new'.*differs by 0\.001.*'legacy'.*differs by 0\.\d"):
        matched(Rough(ADM))


@torch.no_grad()
def test_not_when_another_comes_near(monkeypatch):
    monkeypatch.setattr(foreign_match, "CLEARLY", 1e4)
    with pytest.raises(ValueError, match="no network of ctm_fast"):
        matched(Rough(ADM), rounding=5e-3)


@torch.no_grad()
def test_what_cannot_be_rebuilt_is_said():
    module = host.SongUNet(SONG)
    module.register_parameter("extra", nn.Parameter(torch.zeros(1)))
    with pytest.raises(ValueError, match=r"Tried: layout 'edm': .*left over 1 \(extra\)"):
        matched(module, kind=SongNetwork)
    with pytest.raises(ValueError, match="got SongUNet"):
        matched(host.SongUNet(SONG))


def test_what_rounding_may_do():
    tolerances = {torch.float16: 0.01, torch.float32: 1e-7}
    module = host.EDMPrecond(host.SongUNet(dataclasses.replace(SONG, label_dim=0)))
    assert rounding_of(module, state_of(module), tolerances) == 1e-4
    assert rounding_of(module, {"a": torch.zeros(1).half()}, tolerances) == 0.01
    module.use_fp16 = True
    assert rounding_of(module, state_of(module), tolerances) == 0.01


def test_failing_calls_are_named():
    with pytest.raises(ValueError, match="a call of this Linear fails"):
        called(nn.Linear(2, 2), [((torch.zeros(1, 3),), {})])
    answers = called(nn.Linear(3, 2), [((torch.zeros(1, 3),), {})])
    assert [t.dtype for t in tensors([*answers, (answers[0].half(),)])] == [torch.float64] * 2
