"""`Sampler` against EDM's generate.py: recorded calls, and the whole network where it is found."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ctm_fast import models
from ctm_fast.denoiser import Denoiser
from ctm_fast.models.key_layouts import from_published
from ctm_fast.sampler import Sampler, sample_churn

from ..fixtures import fixture_dir

NAME = "edm_heun_sampler"
GOLDEN = Path(__file__).parents[1] / "golden" / f"{NAME}.safetensors"
FOLDER = fixture_dir(NAME)
needs_fixture = pytest.mark.skipif(FOLDER is None, reason="needs the whole fixture")
EXACT = dict(state_dtype=torch.float64, latents="unit", clip=False)


class Replay:
    """Denoiser that answers with recorded outputs, first and second call of each step in turn."""

    kind, sigma_min, sigma_max, label_dim = "denoiser", 0.002, 80.0, 0

    def __init__(self, io):
        self.img_channels, self.img_resolution = io["latents"].shape[1:3]
        pairs = zip(io["denoised_1st"], [*io["denoised_2nd"], None], strict=True)
        self.answers = [answer for pair in pairs for answer in pair if answer is not None]
        self.inputs, self.sigmas = [], []

    def __call__(self, x, sigma):
        self.inputs.append(x)
        self.sigmas.append(float(sigma[0]))
        return self.answers[len(self.inputs) - 1].to(x.dtype)


def test_recorded_heun_run():
    io = load_file(GOLDEN)
    replay = Replay(io)
    sampler = Sampler(replay, steps=18, **EXACT)
    path = sampler.trajectory(noise=io["latents"])
    assert sampler.nfe == len(replay.inputs) == len(replay.answers) == 35
    levels = torch.tensor(sampler.sigmas, dtype=torch.float64)
    torch.testing.assert_close(levels, io["t_steps"], rtol=1e-12, atol=0)
    states = torch.stack([x for _, x in path])
    torch.testing.assert_close(states, io["x_traj"], rtol=1e-9, atol=1e-9)
    predicted = torch.stack(replay.inputs[1::2])
    torch.testing.assert_close(predicted, io["x_euler"], rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def reference():
    io = load_file(FOLDER / "io.safetensors")
    meta = json.loads((FOLDER / "meta.json").read_text())
    config = models.SongConfig(
        img_resolution=16,
        label_dim=10,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(8,),
    )
    net = models.net_from_config(config)
    published = load_file(FOLDER / "weights.safetensors")
    net.load_state_dict(from_published(published, config, "edm"))
    return Denoiser(net.eval()), io, meta


def close(actual, name, io, meta):
    """max|a-b| <= atol + rtol max|b| for every slice of the first axis."""
    allowed = meta["tensors"][name]["suggested_tol"]
    assert actual.shape == io[name].shape
    error = (actual.double() - io[name].double()).abs().reshape(len(actual), -1).amax(1)
    size = io[name].double().abs().reshape(len(actual), -1).amax(1)
    ratio = error / (allowed["atol"] + allowed["rtol"] * size)
    assert bool((ratio <= 1).all()), f"errors / tolerance: {ratio.tolist()}"


@needs_fixture
@pytest.mark.parametrize("steps, name", [(2, "x_final_steps2"), (5, "x_final_steps5")])
def test_number_of_steps(reference, steps, name):
    model, io, meta = reference
    labels = io["class_labels"].argmax(1)
    images = Sampler(model, steps=steps, **EXACT)(noise=io["latents"], labels=labels)
    close(images, name, io, meta)


@needs_fixture
def test_forty_steps_one_image_at_a_time(reference):
    model, io, meta = reference
    labels = io["class_labels"].argmax(1)
    sampler = Sampler(model, steps=40, batch_size=1, **EXACT)
    close(sampler(noise=io["latents"], labels=labels), "x_final_steps40", io, meta)


@needs_fixture
def test_whole_path(reference):
    model, io, meta = reference
    labels = io["class_labels"].argmax(1).tolist()
    path = Sampler(model, steps=18, **EXACT).trajectory(noise=io["latents"], labels=labels)
    close(torch.stack([x for _, x in path]), "x_traj", io, meta)


@needs_fixture
def test_euler(reference):
    model, io, meta = reference
    sampler = Sampler(model, steps=18, method="euler", **EXACT)
    images = sampler(noise=io["latents"], labels=io["class_labels"].argmax(1))
    close(images, "euler_x_final", io, meta)


@needs_fixture
def test_float32_state_is_close_to_float64(reference):
    model, io, _ = reference
    sampler = Sampler(model, steps=18, latents="unit", clip=False)
    images = sampler(noise=io["latents"], labels=io["class_labels"].argmax(1))
    torch.testing.assert_close(images.double(), io["x_traj"][-1], rtol=0, atol=1e-4)


@needs_fixture
@torch.inference_mode()
def test_churn_with_the_recorded_noise(reference):
    model, io, meta = reference
    seen, levels = [], io["t_steps"].tolist()

    def noise_sampler(sigma, sigma_to):
        step = min(range(18), key=lambda i: abs(levels[i] - float(sigma)))
        return io["churn_noise"][step]

    images = sample_churn(
        model,
        io["latents"].double() * 80,
        io["t_steps"],
        {"labels": io["class_labels"]},
        seen.append,
        True,
        noise_sampler=noise_sampler,
        **meta["hyper"]["churn"],
    )
    close(torch.stack([info["sigma_hat"] for info in seen]), "churn_t_hat", io, meta)
    close(torch.stack([info["x"] for info in seen]), "churn_x_hat", io, meta)
    close(images, "churn_x_final", io, meta)
