"""A miniature training run with all fast kernels against one on the readable definitions."""

import dataclasses

import pytest
import torch

from ctm_fast.data import ArrayDataset
from ctm_fast.denoiser import Denoiser
from ctm_fast.kernels import use_backend
from ctm_fast.losses import CTM
from ctm_fast.models import student_from
from ctm_fast.rng import stream
from ctm_fast.trainer import Trainer
from tests.kernels.contract import DEVICES
from tests.models.tiny import ADM, SONG, randomised

STEPS = 12


def dataset() -> ArrayDataset:
    """Random images of three classes, 8x8 with two channels."""
    pixels = torch.randint(0, 256, (24, 2, 8, 8), generator=stream(5), dtype=torch.uint8)
    return ArrayDataset(pixels, torch.arange(24) % 3, "random")


def curve(config: object, backend: str, precision: str, device: str) -> torch.Tensor:
    """(steps, terms) losses of a run on one backend."""
    config = dataclasses.replace(config, dropout=0.0)
    teacher = Denoiser(randomised(config).float())
    with use_backend(backend):
        run = Trainer(
            CTM(num_scales=4),
            student_from(teacher),
            teacher=teacher,
            data=dataset(),
            device=device,
            **dict(batch_size=8, steps=STEPS, lr=1e-3, precision=precision),
            **dict(log_every=1, progress_bar=False),
        )
        return torch.tensor([list(run.fit(k + 1).loss.values()) for k in range(STEPS)])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("config", [SONG, ADM], ids=["song", "adm"])
@pytest.mark.parametrize(("precision", "close"), [("fp32", 1e-3), ("bf16", 0.08)])
def test_loss_curves_agree(config: object, precision: str, close: float, device: str) -> None:
    slow = curve(config, "reference", precision, device)
    fast = curve(config, "auto", precision, device)
    assert slow.isfinite().all() and slow.std() > 0.05 * slow.mean()
    difference = (fast - slow).abs() / slow.abs().clamp(min=1e-2)
    assert difference.max() < close, f"{difference}"
    assert not torch.equal(fast, slow)
