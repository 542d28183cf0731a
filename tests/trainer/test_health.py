"""Numbers that are not finite stop the run and are named."""

import pytest
import torch

from ctm_fast.trainer import NonFiniteLoss
from ctm_fast.trainer.gradients import Numbers
from ctm_fast.trainer.health import Monitor
from tests.trainer import tiny


def numbers(losses=(1.0, 2.0), norms=(3.0, 4.0), total=5.0, stop=0.0, device="cpu"):
    """Numbers of a step of two terms."""
    values = (losses, (1.0, 0.5), norms, total, stop)
    return Numbers(*(torch.tensor(value, device=device) for value in values))


def test_means_over_the_window():
    monitor = Monitor(("ctm", "dsm"), late=False, scaled=False)
    monitor.watch(0, numbers())
    monitor.watch(1, numbers(losses=(3.0, 2.0), total=7.0))
    means = monitor.window.means()
    assert means["loss"] == {"ctm": 2.0, "dsm": 2.0}
    assert means["weight"] == {"ctm": 1.0, "dsm": 0.5}
    assert means["grad_norm"] == 6.0
    assert not monitor.stop


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_loss_names_its_term(bad):
    monitor = Monitor(("ctm", "dsm"), late=False, scaled=False)
    with pytest.raises(NonFiniteLoss, match=r"loss of 'dsm' at step 7 .*no checkpoint") as caught:
        monitor.watch(7, numbers(losses=(1.0, bad), norms=(1.0, bad), total=bad))
    assert (caught.value.step, caught.value.term) == (7, "dsm")


def test_a_bad_gradient_names_its_term_unless_a_loss_scale_handles_it():
    bad = numbers(norms=(float("inf"), 1.0), total=float("inf"))
    with pytest.raises(NonFiniteLoss, match="gradient of 'ctm'"):
        Monitor(("ctm", "dsm"), late=False, scaled=False).watch(0, bad)
    scaled = Monitor(("ctm", "dsm"), late=False, scaled=True)
    scaled.watch(0, bad)
    assert scaled.window.steps == 0


def test_any_process_can_ask_to_stop():
    monitor = Monitor(("ctm", "dsm"), late=False, scaled=False)
    monitor.watch(0, numbers(stop=1.0))
    assert monitor.stop


@pytest.mark.parametrize("spoil", ["loss", "gradient"])
def test_training_stops_before_the_bad_update(tmp_path, spoil):
    run = tiny.trainer(tiny.Failing(spoil=spoil), out=tmp_path, checkpoint_every=1)
    with pytest.raises(NonFiniteLoss, match=r"'dsm' at step 3 .*step-00000003") as caught:
        run.fit()
    assert caught.value.checkpoint == tmp_path / "checkpoints" / "step-00000003.safetensors"
    assert all(bool(value.isfinite().all()) for value in run.student.state_dict().values())
    again = tiny.trainer(tiny.Failing(spoil=spoil), out=tmp_path)
    assert again.step == 3


def test_a_weight_that_is_not_finite_is_never_saved(tmp_path):
    run = tiny.trainer(out=tmp_path, checkpoint_every=1)
    run.fit(1)
    with torch.no_grad():
        run.ema.net.first.bias[0] = float("nan")
    run.step = 2
    with pytest.raises(NonFiniteLoss, match=r"ema/0/net\.first\.bias"):
        run.save()
    assert [path.name for path in tmp_path.glob("checkpoints/*")] == ["step-00000001.safetensors"]


@pytest.mark.gpu
def test_on_a_gpu_a_bad_step_is_found_one_step_late():
    monitor = Monitor(("ctm", "dsm"), late=True, scaled=False)
    monitor.watch(0, numbers(losses=(float("nan"), 1.0), device="cuda"))
    with pytest.raises(NonFiniteLoss, match="step 0"):
        monitor.watch(1, numbers(device="cuda"))
    monitor.flush()
    monitor.watch(2, numbers(norms=(1.0, float("nan")), total=float("nan"), device="cuda"))
    with pytest.raises(NonFiniteLoss, match="step 2"):
        monitor.flush()
