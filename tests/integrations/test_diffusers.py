"""`CTMScheduler`: diffusers' list of scheduler tests, one-time and two-time networks, drop-in."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Without diffusers these tests fail: the door is part of what is promised.
from diffusers import CMStochasticIterativeScheduler

from ctm_fast.integrations.diffusers import CTMScheduler
from ctm_fast.precond import EDM, Plain, Preconditioning, Variance
from ctm_fast.sampler import sample_gamma

from .diffusers_worlds import (
    denoiser,
    deterministic_sample,
    dummy_output,
    loop,
    unit_noise,
)

ROOT = Path(__file__).resolve().parents[2]
LISTED = dict(num_train_timesteps=201, sigma_min=0.002, sigma_max=80.0)  # diffusers' test config


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# diffusers' own list of scheduler tests


def test_step_shape() -> None:
    scheduler = CTMScheduler(**LISTED)
    scheduler.set_timesteps(10)
    sample = torch.rand(4, 3, 8, 8)
    for t in scheduler.timesteps[:2]:
        output = scheduler.step(0.1 * sample, t, sample)
        assert output.prev_sample.shape == output.denoised.shape == sample.shape


@pytest.mark.parametrize(
    "options",
    [{"num_train_timesteps": n} for n in (10, 50, 100, 1000)]
    + [{"clip_denoised": clip} for clip in (True, False)],
)
def test_a_saved_scheduler_steps_the_same(options: dict, tmp_path: Path) -> None:
    scheduler = CTMScheduler(**{**LISTED, **options})
    scheduler.save_config(tmp_path)
    again = CTMScheduler.from_pretrained(tmp_path)
    sample, t = torch.rand(4, 3, 8, 8), scheduler.sigma_to_t(80.0)
    steps = [s.step(9 * sample, t, sample, generator=generator()) for s in (scheduler, again)]
    assert torch.equal(steps[0].prev_sample, steps[1].prev_sample)
    assert again.timesteps.dtype == torch.float64 and len(again.timesteps) == len(again)
    assert bool(steps[0].denoised.abs().max() <= 1) == scheduler.config.clip_denoised


@pytest.mark.parametrize(
    ("chosen", "total", "mean"),
    [
        # Sums that diffusers' test of CMStochasticIterativeScheduler expects.
        (dict(num_inference_steps=1), 192.7614, 0.2510),
        (dict(timesteps=[106, 0]), 347.6357, 0.4527),
    ],
)
def test_full_loops(chosen: dict, total: float, mean: float) -> None:
    scheduler = CTMScheduler(**LISTED)
    scheduler.set_timesteps(**chosen)
    sample = loop(scheduler, deterministic_sample() * scheduler.init_noise_sigma)
    assert float(sample.abs().sum()) == pytest.approx(total, abs=1e-2)
    assert float(sample.abs().mean()) == pytest.approx(mean, abs=1e-3)


def test_full_loop_with_noise() -> None:
    finished = []
    for scheduler in (CTMScheduler(**LISTED), CMStochasticIterativeScheduler(**LISTED)):
        scheduler.set_timesteps(10)
        later = scheduler.timesteps[8:]
        noised = scheduler.add_noise(deterministic_sample(), unit_noise(4, 3), later[:1])
        draws = generator()
        for t in later:
            output = dummy_output(scheduler.scale_model_input(noised, t), t)
            noised = scheduler.step(output, t, noised, generator=draws).prev_sample
        finished.append(noised)
    torch.testing.assert_close(finished[0], finished[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (dict(timesteps=[39, 30, 12, 15, 0]), "descending order"),
        (dict(num_inference_steps=5, timesteps=[39, 30, 12, 1, 0]), "give one of"),
        (dict(timesteps=[201]), "num_train_timesteps=201"),
        (dict(), "give one of"),
        (dict(num_inference_steps=202), "num_train_timesteps=201"),
        (dict(num_inference_steps=2, gamma=1.5), "gamma is 1.5"),
    ],
)
def test_custom_timestep_errors(chosen: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CTMScheduler(**LISTED).set_timesteps(**chosen)


def test_save_load_from_a_different_config(tmp_path: Path) -> None:
    theirs = CMStochasticIterativeScheduler(sigma_max=40.0, s_noise=1.01, num_train_timesteps=151)
    theirs.save_config(tmp_path)
    ours = CTMScheduler.from_pretrained(tmp_path)
    assert {k: ours.config[k] for k in ("sigma_max", "s_noise", "num_train_timesteps")} == {
        "sigma_max": 40.0,
        "s_noise": 1.01,
        "num_train_timesteps": 151,
    }
    assert ours.compatibles == [CMStochasticIterativeScheduler]
    back = CMStochasticIterativeScheduler.from_config(ours.config)
    assert back.config.sigma_max == 40.0
    assert dict(CTMScheduler.from_config(back.config).config).items() >= {
        ("sigma_max", 40.0),
        ("gamma", None),
    }


def test_save_pretrained_keeps_every_key(tmp_path: Path) -> None:
    precond = Preconditioning(Plain(0.4), Variance()).to_json()
    given = dict(gamma=0.3, kind="trajectory", preconditioning=precond, sigma_data=0.4, rho=5.0)
    scheduler = CTMScheduler(timestep_spacing="leading", **given)
    scheduler.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert stored["_class_name"] == "CTMScheduler" and stored["gamma"] == 0.3
    again = CTMScheduler.from_pretrained(tmp_path)
    saved = {k: v for k, v in scheduler.config.items() if k != "_use_default_values"}
    assert saved == again.config
    assert again.preconditioning() == Preconditioning(Plain(0.4), Variance())


def test_tuple_and_dict_outputs_agree() -> None:
    scheduler = CTMScheduler(**LISTED)
    sample, outputs = torch.rand(4, 3, 8, 8), []
    for return_dict in (True, False):
        scheduler.set_timesteps(50)
        options = dict(generator=generator(), return_dict=return_dict)
        outputs.append(scheduler.step(0.1 * sample, scheduler.timesteps[0], sample, **options))
    assert isinstance(outputs[1], tuple)
    for from_dict, from_tuple in zip(outputs[0].to_tuple(), outputs[1], strict=True):
        assert torch.equal(from_dict, from_tuple)


def test_add_noise_and_public_api() -> None:
    scheduler = CTMScheduler(**LISTED)
    scheduler.set_timesteps(100)
    sample, noise = torch.rand(4, 3, 8, 8), unit_noise(4, 3)
    assert scheduler.scale_model_input(sample, 0.0).shape == sample.shape
    assert scheduler.order == 1 and scheduler.init_noise_sigma == 80.0 and len(scheduler) == 201
    noised = scheduler.add_noise(sample, noise, scheduler.timesteps[5][None])
    torch.testing.assert_close(noised, sample + float(scheduler.sigmas[5]) * noise)
    each = scheduler.add_noise(sample, noise, scheduler.timesteps[:4].float())
    levels = scheduler.sigmas[:4].float().reshape(4, 1, 1, 1)
    torch.testing.assert_close(each, sample + levels * noise, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="int64"):
        scheduler.add_noise(sample, noise, torch.arange(4))


# two-time networks


@pytest.mark.parametrize("gamma", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("alias", ["s_timestep", "r_timestep", None])
def test_two_time_loop_is_our_sampler(gamma: float, alias: str | None) -> None:
    model = denoiser().eval()
    scheduler = CTMScheduler(kind="trajectory", gamma=gamma, clip_denoised=False)
    scheduler.set_timesteps(3)
    x, draws = 80 * unit_noise(2), generator(4)
    want = sample_gamma(model, x, scheduler.sigmas, gamma=gamma, generator=generator(4))
    with torch.no_grad():
        for t, s in zip(scheduler.timesteps, scheduler.s_timesteps, strict=True):
            to_sigma = [(torch.as_tensor(level) / 250).exp().float() for level in (t, s)]
            levels = [model.precond.c_noise(sigma).expand(2) for sigma in to_sigma]
            F = model.net(scheduler.scale_model_input(x, t), *levels)
            told = {} if alias is None else {alias: s}
            x = scheduler.step(F, t, x, generator=draws, **told).prev_sample
    torch.testing.assert_close(x, want, rtol=1e-5, atol=1e-5)
    assert scheduler.step_index == 3


def test_deterministic_steps_draw_nothing() -> None:
    draws = generator()
    scheduler = CTMScheduler(gamma=0.0)
    scheduler.set_timesteps(4)
    before = draws.get_state()
    for t in scheduler.timesteps:
        scheduler.step(unit_noise(1), t, unit_noise(1), generator=draws)
    assert torch.equal(before, draws.get_state())


def test_own_times_are_never_read_from_their_device() -> None:
    scheduler = CTMScheduler(kind="trajectory")
    scheduler.set_timesteps(3)
    x, times = unit_noise(1), (scheduler.timesteps[1], scheduler.s_timesteps[1])
    want = scheduler.step(x, times[0], x, times[1]).prev_sample
    for own in (scheduler.timesteps, scheduler.s_timesteps):
        own.fill_(float("nan"))
    scheduler.timesteps = torch.zeros(3)  # a host may put its own there
    assert torch.equal(scheduler.step(x, times[0], x, times[1]).prev_sample, want)


def test_any_step_jump_off_the_schedule() -> None:
    scheduler = CTMScheduler(kind="trajectory", clip_denoised=False)
    x, F = unit_noise(2), unit_noise(2, seed=1)
    t, s = scheduler.sigma_to_t(7.0), scheduler.sigma_to_t(3.0)
    P, Q = Preconditioning(EDM()).jump_coefficients(torch.tensor(7.0), torch.tensor(3.0))
    got = scheduler.step(F, t, x, s_timestep=s)
    torch.testing.assert_close(got.prev_sample, P * x + Q * F)
    assert torch.equal(got.prev_sample, got.denoised)


def test_kind_is_guessed_only_when_certain() -> None:
    assert CTMScheduler().kind == CTMScheduler(gamma=1.0).kind == "consistency"
    assert CTMScheduler(gamma=0.5).kind == CTMScheduler(kind="trajectory").kind == "trajectory"
    assert CTMScheduler(kind="trajectory").s_timesteps[0] == CTMScheduler().timesteps[1]
    # Told where the network jumped, a step knows that it has two times.
    x, F, end = unit_noise(1), unit_noise(1, seed=1), CTMScheduler().s_timesteps[-1]
    steps = {
        kind: CTMScheduler(kind=kind, gamma=1.0, clip_denoised=False)
        .step(F, 0.0, x, s_timestep=end.clone())
        .denoised
        for kind in (None, "consistency", "trajectory")
    }
    assert torch.equal(steps[None], steps["trajectory"])
    assert not torch.equal(steps[None], steps["consistency"])


@pytest.mark.parametrize("kind", ["consistency", "trajectory"])
def test_a_network_may_return_the_image_itself(kind: str) -> None:
    precond = Preconditioning(Plain(0.5)).to_json()
    scheduler = CTMScheduler(kind=kind, gamma=1.0, preconditioning=precond, clip_denoised=False)
    scheduler.set_timesteps(2)
    x, image, t = unit_noise(2), unit_noise(2, seed=1), scheduler.timesteps[1]
    ratio = 0.002 / float(scheduler.sigmas[1]) if kind == "trajectory" else 0.0
    landed = scheduler.step(image, t, x, generator=generator()).denoised
    torch.testing.assert_close(landed, ratio * x + (1 - ratio) * image)
    c_in = (scheduler.sigmas[1] ** 2 + 0.25).rsqrt().float()
    torch.testing.assert_close(scheduler.scale_model_input(x, t), c_in * x)


def test_clipping_touches_finished_images_only() -> None:
    scheduler = CTMScheduler(kind="trajectory")
    scheduler.set_timesteps(2)
    x = 90 * unit_noise(1)
    assert scheduler.step(x, scheduler.timesteps[0], x).prev_sample.abs().max() > 1
    assert scheduler.step(x, scheduler.timesteps[1], x).prev_sample.abs().max() == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(kind="denoiser"), "kind is 'denoiser'"),
        (dict(timestep_spacing="trailing"), "timestep_spacing"),
        (dict(kind="consistency", gamma=0.5), "gamma=1"),
        (dict(gamma=-0.1), "gamma is -0.1"),
        (dict(sigma_data=0.0), "sigma_data"),
        (dict(sigma_min=90.0), "sigma_min"),
        (dict(num_train_timesteps=1), "num_scales"),
        (dict(preconditioning=Preconditioning(EDM(0.3)).to_json()), "assumes 0.3"),
        (dict(preconditioning={"inner": 3}), "preconditioning fields"),
    ],
)
def test_bad_configurations_are_refused(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CTMScheduler(**options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(timestep=3), "integer"),
        (dict(timestep=torch.tensor(3)), "integer"),
        (dict(timestep=2000.0), "outside"),
        (dict(s_timestep=100.0), "jumps from"),
        (dict(s_timestep=-3000.0), "outside"),
        (dict(s_timestep=-100.0, r_timestep=-100.0), "one thing"),
        (dict(s_timestep=torch.Generator()), "must be a number"),
    ],
)
def test_bad_times_are_refused(arguments: dict, said: str) -> None:
    x, scheduler = unit_noise(2), CTMScheduler(kind="trajectory")
    with pytest.raises(ValueError, match=said):
        scheduler.step(x, **{"timestep": 0.0, "sample": x, **arguments})
    with pytest.raises(ValueError, match=r"to 0.002 only"):
        CTMScheduler(kind="consistency").step(x, 0.0, x, s_timestep=-100.0)


def test_without_diffusers_the_extra_is_named() -> None:
    code = "import sys; sys.modules['diffusers'] = None; import ctm_fast.integrations.diffusers"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert "ImportError" in done.stderr and "pip install 'ctm_fast[diffusers]'" in done.stderr
