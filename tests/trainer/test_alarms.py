"""Alarms: which lines raise them, once, and how far averages are from the student."""

import pytest
import torch

from ctm_fast.trainer import Alarmed, alarms
from ctm_fast.trainer.alarms import Alarms, Bounds, Drift
from tests.trainer import tiny


def line(losses, norms=None, drift=(), resting=()):
    """What alarms look at."""
    entry = {"step": 1, "loss": losses, "term_grad_norm": norms or dict.fromkeys(losses, 1.0)}
    return {**entry, "ema_drift": list(drift), **({"ema_at_rest": resting} if resting else {})}


def told(lines, **bounds):
    """Alarms of each line."""
    watch = Alarms(Bounds(**bounds))
    return [watch.check(entry) for entry in lines]


def test_divergence_is_told_once_and_again_after_it_ceased():
    losses = [2.0, 1.0, 9.0, 11.0, 12.0, 13.0, 14.0, 5.0, 11.0, 11.0, 11.0]
    found = told([line({"ctm": loss, "dsm": 1.0}) for loss in losses])
    assert [bool(alarm) for alarm in found] == [i in (5, 10) for i in range(len(losses))]
    assert found[5] == ["divergence of ctm: mean loss 13, 13 times its smallest"]


def test_no_alarm_for_a_healthy_run_or_a_loss_that_may_be_negative():
    healthy = [line({"ctm": 2.0 / i, "gan": 0.1 * i, "discriminator": 1.0}) for i in range(1, 9)]
    assert not any(told(healthy))
    learned = [line({"scm": loss}) for loss in (-1.0, -2.0, 5.0, 50.0, 500.0, 5000.0)]
    assert not any(told(learned))


def test_a_discriminator_that_knows_every_image():
    found = told([line({"discriminator": loss}) for loss in (1.0, 0.0, 0.01, 0.0, 0.0)])
    assert found[3] == ["discriminator collapse: its hinge loss is 0"]
    assert sum(map(len, found)) == 1
    # Lines without a step of the discriminator say nothing, and do not end the row.
    rows = [{"discriminator": 0.0}, {}, {"discriminator": 0.0}, {"discriminator": 0.0}]
    assert [len(alarm) for alarm in told([line(row) for row in rows])] == [0, 0, 0, 1]


def test_a_generator_that_learns_nothing():
    same = [line({"gan": loss}) for loss in (0.5, 1.0, 1.00001, 1.0, 1.00002)]
    assert [len(alarm) for alarm in told(same)] == [0, 0, 0, 0, 1]
    still = [line({"gan": float(i)}, {"gan": 0.0}) for i in range(3)]
    assert "generator stuck" in told(still)[2][0]


def test_an_average_that_moves_away():
    drifts = [0.9, 1.1, 1.2, 1.3, 1.2, 1.1]
    found = told([line({}, drift=(0.1, drift)) for drift in drifts])
    assert found[3] == ["drift of average 1: 1.3 times the student's norm away"]
    assert sum(map(len, found)) == 1
    assert not any(told([line({}, drift=(3.0 - drift,)) for drift in drifts]))


def test_an_average_at_rest():
    found = told([line({}, drift=(0.1, 0.2), resting=(0,)) for _ in range(4)])
    assert found[2] == ["average 0 at rest: it stays where it is while the student moves"]
    assert not found[3]


def test_what_is_known_follows_from_the_lines():
    entries = [line({"ctm": loss}) for loss in (1.0, 20.0, 20.0, 20.0, 20.0)]
    whole = told(entries)
    watch = Alarms()
    watch.check(line({"ctm": 1e-9}))
    watch.restore(entries[:3])
    assert [watch.check(entry) for entry in entries[3:]] == whole[3:] and whole[3]


def test_drift_is_a_share_of_the_students_norm(monkeypatch):
    monkeypatch.setattr(alarms, "CHUNK", 100)  # several pieces
    student, near, far = (tiny.denoiser().double() for _ in range(3))
    with torch.no_grad():
        for p, q in zip(near.parameters(), far.parameters()):
            p.mul_(1.25), q.mul_(-1)
    drift = Drift(student, [near, far])
    drift.start()
    assert drift.entry() == {"ema_drift": [pytest.approx(0.25), pytest.approx(2.0)]}
    assert Drift(student, []).entry() == {}


def test_drift_names_the_averages_that_rest():
    student, follows, rests = (tiny.denoiser() for _ in range(3))
    drift = Drift(student, [follows, rests])
    drift.start()
    assert "ema_at_rest" not in drift.entry(), "nothing moves"
    for _ in range(2):
        with torch.no_grad():
            for moving in (student, follows):
                moving.last_layer.bias += 0.1
        assert drift.entry()["ema_at_rest"] == [1]
    student.requires_grad_(False)
    student.net.first.bias.requires_grad_(True)
    only = Drift(student, [rests])
    only.start()
    assert only.entry() == {"ema_drift": [0.0]}, "weights that do not learn do not count"


def test_an_alarm_that_ends_a_run_says_where_it_continues():
    error = Alarmed(7, ["divergence of ctm: so much"], "a.safetensors")
    assert str(error) == (
        "stopped after step 7: divergence of ctm: so much; last checkpoint: a.safetensors"
    )
    assert (error.step, error.alarms) == (7, ("divergence of ctm: so much",))
    assert "no checkpoint was written" in str(Alarmed(1, ["a"]))
