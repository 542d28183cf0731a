"""SIGTERM and Ctrl-C end at a step boundary with everything saved."""

import os
import signal
import threading

import pytest

from ctm_fast.trainer.signals import Signals
from tests.trainer import processes, tiny


def test_sigterm_saves_and_ends_with_143_even_when_sent_twice(tmp_path):
    arguments = ("-m", "tests.trainer.worker", str(tmp_path), "1000", "0.03")
    with processes.program(*arguments) as process:
        processes.wait_for_checkpoint(tmp_path, 2, process)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        status, output = processes.finished(process)
    assert status == 143, output
    assert "SIGTERM: stopping after this step" in output
    resumed = tiny.trainer(out=tmp_path, dropout=0.5, steps=1000)
    assert 2 <= resumed.step < 1000


def test_ctrl_c_saves_and_interrupts(tmp_path):
    def interrupt(trainer, step):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # ignored if the tests run in the background
    run = tiny.trainer(out=tmp_path, steps=50, preview_every=1, callbacks=[interrupt])
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    assert run.step == 3
    assert signal.getsignal(signal.SIGINT) is before
    assert tiny.trainer(out=tmp_path).step == 3


def test_a_second_ctrl_c_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.asked == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_restored():
    before = signal.getsignal(signal.SIGTERM)
    with Signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_can_train():
    finished = []
    thread = threading.Thread(target=lambda: finished.append(tiny.trainer().fit(2)))
    thread.start()
    thread.join(timeout=30)
    assert finished[0].steps == 2
