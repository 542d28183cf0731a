"""Drop-in for diffusers: the images of its consistency pipeline, and whole folders read back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler

from ctm_fast.integrations.diffusers import CTMPipeline, CTMScheduler

from .diffusers_worlds import consistency_pipeline, denoiser

ROOT = Path(__file__).resolve().parents[2]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "chosen",
    [
        dict(num_inference_steps=1),
        dict(num_inference_steps=3),
        dict(num_inference_steps=None, timesteps=[22, 0]),
        dict(num_inference_steps=None, timesteps=[39, 30, 12]),
        dict(num_inference_steps=2, s_noise=1.01),
        dict(num_inference_steps=2, sigma_min=0.0123),
    ],
)
def test_a_consistency_pipeline_keeps_its_images(chosen: dict) -> None:
    own = ("sigma_min", "s_noise")
    options = {name: chosen[name] for name in own if name in chosen}
    chosen = {name: value for name, value in chosen.items() if name not in own}
    pipe, runs = consistency_pipeline(CMStochasticIterativeScheduler(**options)), []
    for _ in range(2):
        draws = [generator(1), generator(2)]
        shared = generator(3)
        runs.append(
            [
                pipe(2, [1, 2], generator=g, output_type="np", **chosen).images
                for g in (draws, shared, shared)  # the second run goes on where the first stopped
            ]
        )
        pipe.scheduler = CTMScheduler.from_config(pipe.scheduler.config)
    theirs, ours = np.stack(runs[0]), np.stack(runs[1])
    assert ours.std() > 0.01 and np.abs(ours[1] - ours[2]).max() > 0.01
    if (
        "sigma_min" in options
    ):  # rounded to float32 that level is below itself, and their last noise is NaN
        assert np.isnan(theirs).all() and np.isfinite(ours).all()
    else:
        assert np.abs(theirs - ours).max() == 0


def test_half_precision_pipelines_keep_their_dtype() -> None:
    pipe, images = consistency_pipeline(CMStochasticIterativeScheduler()).to(torch.bfloat16), []
    for _ in range(2):
        seen: list[tuple] = []
        keep = lambda *step, seen=seen: seen.append(step)  # noqa: E731
        pipe(1, [1], None, [22, 0], generator(), output_type="pt", callback=keep)
        assert seen[-1][2].dtype == torch.bfloat16
        images.append(seen[-1][2].float())
        pipe.scheduler = CTMScheduler.from_config(pipe.scheduler.config)
    assert (images[0] - images[1]).abs().max() < 0.1


FRESH = """
import sys, numpy, torch
import ctm_fast.integrations.diffusers as door
from diffusers import DiffusionPipeline
folder = sys.argv[1]
host = DiffusionPipeline.from_pretrained(folder + "/host")
own = door.CTMPipeline.from_pretrained(folder + "/own")
for name, pipe in (("host", host), ("own", own)):
    assert type(pipe.scheduler) is door.CTMScheduler, type(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    draws = torch.Generator().manual_seed(1)
    images = pipe(2, [1, 2], None, [22, 0], generator=draws, output_type="np").images
    assert numpy.array_equal(images, numpy.load(f"{folder}/{name}.npy")), name
"""


def test_whole_folders_are_read_offline_by_a_fresh_process(tmp_path: Path) -> None:
    host = consistency_pipeline(CTMScheduler())
    own = CTMPipeline.from_denoiser(denoiser(label_dim=4), gamma=0.5)
    own.set_progress_bar_config(disable=True)
    for name, pipe in (("host", host), ("own", own)):
        pipe.save_pretrained(tmp_path / name)
        images = pipe(2, [1, 2], None, [22, 0], generator=generator(1), output_type="np").images
        np.save(tmp_path / f"{name}.npy", images)
    index = json.loads((tmp_path / "host" / "model_index.json").read_text())
    assert index["scheduler"] == ["ctm_fast.integrations.diffusers", "CTMScheduler"]
    environment = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
