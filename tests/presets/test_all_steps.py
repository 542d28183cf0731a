"""One optimizer step of every full-size recipe on a CPU: published networks, two random images.

Random weights stand for trained ones. The teacher makes one step where it would make up to 39, and
fp16 is bf16, whose convolutions a CPU has. LPIPS and the discriminator have random backbones. Of
several averages one is kept, for a machine of 16 GB.
"""

import dataclasses
import gc
from pathlib import Path
from typing import Any

import pytest
import torch

from ctm_fast import models
from ctm_fast.cli.students import student_for
from ctm_fast.data import ArrayDataset
from ctm_fast.denoiser import Denoiser
from ctm_fast.losses import LPIPS
from ctm_fast.losses.lpips import STAGES
from ctm_fast.models.feature_nets import RandomFeatures
from ctm_fast.presets import PRESETS, Preset
from ctm_fast.rng import stream
from ctm_fast.trainer import Trainer

FULL = [name for name in PRESETS if name.startswith(("ctm-", "edm-")) and "digits" not in name]
WIDTHS = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A VGG16 with random weights, and LPIPS's heads."""
    generator, before, state = stream(1), 3, {}
    for stage, width in zip(STAGES, WIDTHS):
        for index in stage:
            weight = torch.randn(width, before, 3, 3, generator=generator)
            state[f"features.{index}.weight"] = weight / (4.5 * before) ** 0.5
            state[f"features.{index}.bias"] = torch.zeros(width)
            before = width
    for k, width in enumerate(WIDTHS):
        state[f"lin{k}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator) / width
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save(state, path)
    return str(path)


def objective_of(preset: Preset, vgg: str) -> Any:
    objective = preset.objective()
    changes: dict[str, Any] = {}
    if preset.objective_name.startswith("ctm"):
        changes["levels"] = dataclasses.replace(objective.levels, max_steps=1)
        changes["distance"] = LPIPS(weights=vgg)
    if preset.objective_name == "ctm_gan":
        backbones = (RandomFeatures(0, allow_random=True), RandomFeatures(1, allow_random=True))
        changes["gan"] = dataclasses.replace(objective.gan, backbones=backbones, start=0)
    return dataclasses.replace(objective, **changes)


@torch.no_grad()
def stirred(model: Denoiser) -> Denoiser:
    """The model with small numbers where all weights begin at zero, so that every layer learns."""
    for k, weight in enumerate(model.parameters()):
        if weight.ndim > 1 and not weight.any():
            weight.copy_(torch.randn(weight.shape, generator=stream(3, k)) / 100)
    return model


def data_of(preset: Preset) -> ArrayDataset:
    config = models.PRESETS[preset.network]
    classes = preset.net_options.get("label_dim", config.label_dim)
    shape = (4, config.img_channels, config.img_resolution, config.img_resolution)
    pixels = torch.randint(0, 256, shape, generator=stream(2), dtype=torch.uint8)
    return ArrayDataset(pixels, torch.arange(4) if classes else None, "random", classes or None)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_one_step(name: str, vgg: str, tmp_path: Path) -> None:
    preset, teacher, student = PRESETS[name], None, None
    objective, data, options = objective_of(preset, vgg), data_of(preset), preset.net_options
    if "teacher" in objective.needs:
        told = {k: v for k, v in options.items() if k in ("label_dim", "dropout")}
        teacher = stirred(Denoiser(models.build(preset.network, destination=False, **told)))
    if preset.start == "student":
        student = models.student_from(teacher)
    student = student_for(
        objective,
        data,
        teacher,
        student=student,
        net=preset.network,
        options=options,
        sigma_range=preset.sigma_range,
        sigma_data=preset.sigma_data,
    )
    config, student = preset.train(), stirred(student)
    precision = "bf16" if config.precision == "fp16" else config.precision
    adversarial = preset.objective_name == "ctm_gan"
    run = Trainer(
        objective,
        student,
        teacher=teacher,
        data=data,
        config=config.replace(batch_size=2, precision=precision, ema=config.ema[:1]),
        device="cpu",
        steps=2 if adversarial else 1,  # then the discriminator's
        lr_warmup=0,
        log_every=1,
        progress_bar=False,
    )
    before = student.last_layer.weight.detach().clone()
    summary = run.fit()
    assert summary.steps == run.config.steps
    assert set(summary.loss) == set(objective.terms)
    assert all(value == value for value in summary.loss.values())
    assert all(torch.isfinite(p).all() for p in student.parameters())
    assert not torch.equal(student.last_layer.weight, before)
    del run, student, teacher
    gc.collect()
