"""The journal of a run: complete lines, alarms that warn or stop, a line for what is not finite."""

import dataclasses
import json
import logging

import pytest
import torch

from ctm_fast.losses import DSM
from ctm_fast.trainer import Alarmed, NonFiniteLoss, TrainConfig
from tests.trainer import tiny
from tests.trainer.adversary import adversarial
from tests.trainer.test_log import lines


@dataclasses.dataclass(frozen=True)
class Diverging(DSM):
    """DSM whose loss is a hundred times as large from some step on."""

    begin: int = 2

    def loss(self, term, batch, models, progress=0.0):
        factor = 100.0 if batch.draw["step"] >= self.begin else 1.0
        return factor * super().loss(term, batch, models, progress)


RUN = dict(steps=8, log_every=1, lr=1e-6)
NAMES = {"step", "images", "loss", "weight", "term_grad_norm", "grad_norm", "lr", "share"}
NAMES |= {"sec_per_kimg", "images_per_s", "peak_memory_mib", "ema_drift", "teacher_evals_per_s"}


def test_a_line_is_complete(tmp_path):
    tiny.trainer(out=tmp_path, steps=2, log_every=1).fit()
    text = (tmp_path / "log.jsonl").read_text()
    first, second = (json.loads(line) for line in text.splitlines())
    assert set(first) == NAMES | {"no_power"}
    assert set(second) == NAMES
    assert set(first["share"]) == {"writing", "data", "prepare", "ctm", "dsm", "optimizer"}
    assert sum(first["share"].values()) == pytest.approx(1, abs=1e-3)
    assert first["sec_per_kimg"] * first["images_per_s"] == pytest.approx(1000, rel=1e-2)


def test_terms_of_one_pass_have_one_share(tmp_path):
    tiny.trainer(out=tmp_path, steps=1, log_every=1, one_pass=True).fit()
    share = json.loads((tmp_path / "log.jsonl").read_text())["share"]
    assert "ctm+dsm" in share and "ctm" not in share


def test_terms_of_alternating_steps(tmp_path):
    tiny.trainer(adversarial(), out=tmp_path, steps=4, log_every=4).fit()
    share = json.loads((tmp_path / "log.jsonl").read_text())["share"]
    assert {"ctm", "gan", "discriminator"} <= set(share)


def test_an_alarm_warns_and_is_in_the_log(tmp_path, caplog, capsys):
    with caplog.at_level(logging.WARNING, "ctm_fast"):
        tiny.trainer(Diverging(), out=tmp_path, **RUN).fit()
    found = [line.get("alarm") for line in lines(tmp_path)]
    assert found[4][0].startswith("divergence of dsm: mean loss")
    assert [bool(alarm) for alarm in found] == [i == 4 for i in range(8)]
    assert caplog.messages == [f"alarm after step 5: {found[4][0]}"]
    assert caplog.messages[0] in capsys.readouterr().out


def test_alarms_stop_when_they_are_told_to(tmp_path):
    run = tiny.trainer(Diverging(), out=tmp_path, alarms="stop", checkpoint_every=2, **RUN)
    with pytest.raises(Alarmed, match=r"after step 5: .*step-00000004\.safetensors"):
        run.fit()
    assert lines(tmp_path)[-1]["step"] == 5 and "alarm" in lines(tmp_path)[-1]
    # Seen from the checkpoint, the same happens again; who knows better may go on.
    again = tiny.trainer(Diverging(), out=tmp_path, alarms="stop", **RUN)
    assert again.step == 4
    with pytest.raises(Alarmed, match="after step 5"):
        again.fit()
    tiny.trainer(Diverging(), out=tmp_path, alarms="off", **RUN).fit()
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(1, 9))
    assert not any("alarm" in line for line in found)
    assert "ema_drift" not in found[-1]


def test_a_resumed_run_tells_the_same_alarms(tmp_path):
    tiny.trainer(Diverging(), out=tmp_path / "whole", **RUN).fit()
    for stop in (4, 8):
        tiny.trainer(Diverging(), out=tmp_path / "pieces", **RUN).fit(stop)
    assert lines(tmp_path / "pieces") == lines(tmp_path / "whole")


def test_a_value_that_is_not_finite_leaves_a_line(tmp_path):
    run = tiny.trainer(tiny.Failing(), out=tmp_path, checkpoint_every=3, log_every=1)
    with pytest.raises(NonFiniteLoss):
        run.fit()
    found = lines(tmp_path)
    assert [line["step"] for line in found] == [1, 2, 3, 4]
    assert found[3]["alarm"][0].startswith("not finite: the loss of 'dsm' at step 3 is not finite")
    again = tiny.trainer(tiny.Failing(at=1.0), steps=5, log_every=1)
    assert again.fit().steps == 5, "only the line is an alarm"
    with pytest.raises(NonFiniteLoss):
        tiny.trainer(tiny.Failing(), out=tmp_path).fit()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_options_of_the_journal_are_free_and_checked(tmp_path):
    with pytest.raises(ValueError, match=r"alarms 'loud'; choose from \['off', 'stop', 'warn'\]"):
        TrainConfig(alarms="loud")
    tiny.trainer(out=tmp_path, alarms="off").fit(1)
    assert tiny.trainer(out=tmp_path, alarms="stop", tensorboard=True).step == 1


def test_nothing_is_changed_by_it(tmp_path):
    watched, plain = tiny.trainer(out=tmp_path, log_every=1), tiny.trainer(alarms="off")
    watched.fit(), plain.fit()
    for name, value in tiny.weights(plain.ema).items():
        assert torch.equal(watched.ema.state_dict()[name], value)
    assert not watched.teacher.net._forward_pre_hooks
