"""`CTMPipeline`: the images of our `Sampler`, any channels, generators, labels, callbacks."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CMStochasticIterativeScheduler
from torch import Tensor

from ctm_fast import Sampler
from ctm_fast.denoiser import Denoiser
from ctm_fast.integrations.diffusers import CTMModel, CTMPipeline, CTMScheduler
from ctm_fast.precond import EDM, Preconditioning, Variance
from ctm_fast.sampler import sample_cm_multistep, sample_gamma

from .diffusers_worlds import denoiser, unit_noise


def pipeline(model: Denoiser, **options: Any) -> CTMPipeline:
    pipe = CTMPipeline.from_denoiser(model, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(x: Tensor) -> Tensor:
    return (x / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("kind", ["trajectory", "consistency"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_our_samplers(kind: str, channels: int) -> None:
    model = denoiser(kind, channels, label_dim=4, sigma_max=20.0)
    pipe, noise = pipeline(model), unit_noise(3, channels)
    for steps in (1, 3) if kind == "trajectory" else (1,):
        sampler = Sampler(model, steps, latents="unit", freeze=False)
        want = pixels(sampler(noise=noise, labels=[0, 3, 1]))
        got = pipe(3, [0, 3, 1], steps, latents=noise, output_type="pt").images
        torch.testing.assert_close(got, want, rtol=0, atol=2e-6)
    assert want.std() > 0.01 and model.net.training  # as it was, though it ran in eval mode


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_gamma_sampling_is_ours(gamma: float) -> None:
    model, sigmas = denoiser().eval(), [80.0, 5.0, 0.7, 0.002]
    pipe, noise = pipeline(model), unit_noise(2)
    options = dict(gamma=gamma, generator=generator(2))
    with torch.no_grad():
        want = pixels(sample_gamma(model, 80 * noise, sigmas, disable=True, **options))
    again = dict(gamma=gamma, generator=generator(2), sigmas=sigmas, latents=noise)
    got = pipe(**again, output_type="pt").images
    torch.testing.assert_close(got, want, rtol=0, atol=2e-6)
    assert pipe.scheduler.config.gamma is None  # the run's gamma is not kept
    assert not torch.equal(pipe(sigmas=sigmas, latents=noise, output_type="pt").images, got)


def test_consistency_sampling_is_ours() -> None:
    model, sigmas = denoiser("consistency").eval(), [80.0, 5.0, 0.7, 0.002]
    pipe, noise = pipeline(model), unit_noise(2)
    with torch.no_grad():
        x = 80 * noise
        want = pixels(sample_cm_multistep(model, x, sigmas, disable=True, generator=generator()))
    got = pipe(latents=noise, sigmas=sigmas, generator=generator(), output_type="pt").images
    torch.testing.assert_close(got, want, rtol=0, atol=3e-6)


def test_own_levels_scale_the_latents() -> None:
    model, noise = denoiser(), unit_noise(2)
    want = Sampler(model, sigmas=[5.0, 0.002], latents="unit", freeze=False)(noise=noise)
    got = pipeline(model)(sigmas=[5.0], latents=noise, output_type="pt").images
    torch.testing.assert_close(got, pixels(want), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["trajectory", "consistency"])
def test_a_list_of_generators_makes_images_independent(kind: str) -> None:
    pipe = pipeline(denoiser(kind, label_dim=5), gamma=1.0)
    options = dict(num_inference_steps=3, output_type="np")
    together = pipe(generator=[generator(i) for i in range(3)], **options).images
    alone = [pipe(generator=[generator(i)], **options).images for i in range(3)]
    assert np.abs(together - np.concatenate(alone)).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_labels_come_from_the_generator() -> None:
    pipe, seen = pipeline(denoiser(label_dim=1000)), []
    hook = pipe.unet.net.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["labels"]), with_kwargs=True
    )
    state = torch.random.get_rng_state()
    for _ in range(2):
        pipe(4, generator=generator(), output_type="pt")
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator was used"
    assert torch.equal(seen[0], seen[1]) and len(seen[0].unique()) > 1
    pipe(4, 7, output_type="pt")
    hook.remove()
    assert seen[2].tolist() == [7] * 4
    given = pipe(4, seen[0], generator=generator(), output_type="np").images
    assert np.array_equal(given, pipe(4, generator=generator(), output_type="np").images)


def test_output_types() -> None:
    pipe, noise = pipeline(denoiser()), unit_noise(2)
    tensor = pipe(latents=noise, output_type="pt", return_dict=False)[0]
    array = pipe(latents=noise, output_type="np").images
    pictures = pipe(latents=noise).images
    assert tensor.shape == (2, 1, 8, 8) and array.shape == (2, 8, 8, 1)
    assert [(p.mode, p.size) for p in pictures] == [("L", (8, 8))] * 2
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(pictures[0]), (array[0, :, :, 0] * 255).round())
    assert len(pipe().images) == 1
    coloured = pipeline(denoiser(channels=3))(latents=unit_noise(1, 3)).images[0]
    assert coloured.mode == "RGB"


def test_callbacks_see_and_change_the_latents() -> None:
    pipe, seen, ends = pipeline(denoiser()), [], []
    options = dict(num_inference_steps=4, latents=unit_noise(1), output_type="np")

    def at_end(pipe: CTMPipeline, step: int, time: Tensor, given: dict) -> dict:
        ends.append((step, float(time)))
        return {"latents": torch.zeros_like(given["latents"])} if step == 3 else {}

    images = pipe(
        **options,
        callback=lambda *step: seen.append(step),
        callback_steps=2,
        callback_on_step_end=at_end,
    ).images
    assert [step for step, _, _ in seen] == [0, 2] and seen[0][2].shape == (1, 1, 8, 8)
    assert ends == [(i, float(t)) for i, t in enumerate(pipe.scheduler.timesteps)]
    assert np.all(images == 0.5) and not np.all(pipe(**options).images == 0.5)


def test_half_precision_networks_keep_a_float32_state() -> None:
    model, states = denoiser(), []
    options = dict(num_inference_steps=3, latents=unit_noise(2), output_type="pt")
    want = pipeline(model)(**options).images
    pipe = pipeline(model).to(torch.bfloat16)
    got = pipe(**options, callback=lambda *step: states.append(step[2].dtype)).images
    assert set(states) == {torch.float32} and got.dtype == torch.float32
    assert 0 < (got - want).abs().max() < 0.1


def test_another_scheduler_is_replaced_or_refused() -> None:
    unet = CTMModel.from_denoiser(denoiser("consistency"))
    pipe = CTMPipeline(unet, CMStochasticIterativeScheduler(num_train_timesteps=151))
    assert isinstance(pipe.scheduler, CTMScheduler)
    assert (pipe.scheduler.config.kind, len(pipe.scheduler)) == ("consistency", 151)
    pipe.scheduler = CMStochasticIterativeScheduler()
    with pytest.raises(ValueError, match="is a CMStochasticIterativeScheduler"):
        pipe()
    for wrong, said in (
        (dict(kind="trajectory"), "kind is trajectory"),
        (dict(kind="consistency", sigma_max=40.0), "sigma_max is 40.0"),
        (dict(kind="consistency", sigma_data=0.3), "preconditioning is"),
        (dict(kind=None), "kind is None"),
    ):
        pipe.scheduler = CTMScheduler(**wrong)
        with pytest.raises(ValueError, match=said):
            pipe()


def test_a_published_outer_parametrisation_is_carried_over() -> None:
    model = Denoiser(denoiser().net, Preconditioning(EDM(0.4), Variance()))
    noise = unit_noise(2)
    want = Sampler(model, 2, latents="unit", freeze=False)(noise=noise)
    got = pipeline(model)(latents=noise, num_inference_steps=2, output_type="pt").images
    torch.testing.assert_close(got, pixels(want), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (dict(output_type="latent"), "output_type"),
        (dict(callback_steps=0), "callback_steps"),
        (dict(callback_on_step_end_tensor_inputs=["prompt"]), "prompt"),
        (dict(latents=unit_noise(2, 3)), "noise has shape"),
        (dict(batch_size=3, latents=unit_noise(2)), "disagree"),
        (dict(batch_size=3, generator=[generator()]), "generator has 1"),
        (dict(class_labels=[1, 4]), "outside"),
        (dict(class_labels=[1, 2], batch_size=3), "disagree"),
        (dict(batch_size=0), "number of images"),
        (dict(num_inference_steps=0), "num_inference_steps"),
        (dict(num_inference_steps=2, timesteps=[22, 0]), "give one of"),
        (dict(gamma=2.0), "gamma"),
    ],
)
def test_refusals(arguments: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pipeline(denoiser(label_dim=4))(**{"output_type": "pt", **arguments})


def test_odd_channels_are_no_picture() -> None:
    pipe = pipeline(denoiser(channels=2))
    with pytest.raises(ValueError, match="2 channels"):
        pipe()
    assert pipe(output_type="np").images.shape == (1, 8, 8, 2)
