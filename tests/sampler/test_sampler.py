"""`Sampler`: seeds, batches, modes, copies."""

import copy
import dataclasses
import pickle

import pytest
import torch

from ctm_fast.sampler import Sampler, image_seeds, noise_for, sample_gamma
from tests.inference.fake_cuda import FakeCuda

from .worlds import World, flow, latents, small_model, unet_model

STOCHASTIC = [
    ("trajectory", dict(steps=3, gamma=0.6)),
    ("consistency", dict(steps=3)),
    ("denoiser", dict(method="churn", steps=6)),
    ("trajectory", dict(method="churn", steps=6)),
]
DETERMINISTIC = [
    ("trajectory", dict(steps=2)),
    ("trajectory", dict(method="heun", steps=4)),
    ("consistency", dict()),
    ("denoiser", dict(method="euler", steps=4)),
]


@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_a_batch_split_never_changes_an_image(kind, options):
    whole = Sampler(World(kind), clip=False, **options)(7, seed=3)
    for batch_size in (1, 2, 3, 6, 7, 100):
        split = Sampler(World(kind), clip=False, batch_size=batch_size, **options)
        assert torch.equal(split(7, seed=3), whole)


@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_a_batch_split_of_a_network(kind, options):
    model = small_model(kind, label_dim=3)
    whole = Sampler(model, **options)(7, seed=3)
    split = Sampler(model, batch_size=3, **options)(7, seed=3)
    torch.testing.assert_close(split, whole, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind, options", STOCHASTIC)
def test_one_seed_per_image_at_every_position(kind, options):
    sampler = Sampler(World(kind), clip=False, **options)
    images = sampler(seed=[11, 12, 13, 11])
    assert torch.equal(images[0], images[3]) and not torch.equal(images[0], images[1])
    assert torch.equal(sampler(seed=[13, 11]), images[[2, 0]])
    run = sampler(8, seed=5)
    assert torch.equal(sampler(seed=image_seeds(5, 2, start=6)), run[6:])
    assert torch.equal(sampler(3, seed=5), run[:3]), "more images must not change the first ones"
    assert not torch.equal(sampler(8, seed=6), run)


def test_first_state_is_unit_noise_times_the_first_level():
    noise = noise_for(image_seeds(0, 3), 0, (2, 4, 4))
    sampler = Sampler(World(), steps=2, clip=False)
    exact = flow(80 * noise.double(), 80.0, 0.002)
    torch.testing.assert_close(sampler(3).double(), exact, rtol=1e-5, atol=1e-6)
    lower = Sampler(World(), sigmas=[5.0, 0.002], clip=False)
    torch.testing.assert_close(
        lower(3).double(), flow(5 * noise.double(), 5.0, 0.002), rtol=1e-5, atol=1e-6
    )


def test_given_noise_is_never_rescaled_unless_it_is_said_to_be_unit():
    scaled = latents(3).float()
    images = Sampler(World(), clip=False)(noise=scaled)
    torch.testing.assert_close(images, flow(scaled, 80.0, 0.002))
    unit = Sampler(World(), latents="unit", clip=False)(noise=scaled / 80)
    torch.testing.assert_close(unit, images, rtol=1e-5, atol=1e-6)
    assert torch.equal(scaled, latents(3).float())


@pytest.mark.parametrize("kind, options", STOCHASTIC)
def test_given_noise_and_seeds_for_the_rest(kind, options):
    sampler, x = Sampler(World(kind), clip=False, **options), latents(3).float()
    assert torch.equal(sampler(noise=x, seed=1), sampler(noise=x, seed=1))
    assert not torch.equal(sampler(noise=x, seed=1), sampler(noise=x, seed=2))


def test_images_are_float32_clamped_and_may_be_trained_on():
    images = Sampler(World(), steps=2)(64)
    assert images.dtype == torch.float32 and images.shape == (64, 2, 4, 4)
    assert images.min() == -1 and images.max() == 1
    assert Sampler(World(), steps=2, clip=False)(64).abs().max() > 1
    weight = torch.ones(1, requires_grad=True)
    (images * weight).sum().backward()
    assert weight.grad is not None


def test_float64_state():
    sampler = Sampler(World(), steps=3, state_dtype=torch.float64, clip=False)
    x = latents(2)
    images = sampler(noise=x)
    assert images.dtype == torch.float64
    torch.testing.assert_close(images, flow(x, 80.0, 0.002), rtol=1e-12, atol=0)


def test_labels_reach_the_network_in_every_batch():
    model = small_model(label_dim=3)
    sampler = Sampler(model, batch_size=2)
    noise = latents(1).float().expand(6, -1, -1, -1)
    images = sampler(labels=[2, 1, 0, 0, 1, 2], noise=noise)
    torch.testing.assert_close(images.flip(0), images, rtol=0, atol=1e-6)
    assert (images[0] - images[1]).abs().max() > 1e-3
    torch.testing.assert_close(sampler(noise=noise[:3]), images[[2, 1, 0]], rtol=0, atol=1e-6)
    torch.testing.assert_close(sampler(6, labels=2, noise=noise)[3], images[0], rtol=0, atol=1e-6)


def test_eval_mode_inside_and_the_previous_modes_afterwards():
    model = small_model()
    model.train()
    model.net.first.eval()
    before = [module.training for module in model.modules()]
    sampler = Sampler(model, steps=2)
    images = sampler(4)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(images, sampler(4)), "dropout is off"

    def stop(info):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampler(4, callback=stop)
    assert [module.training for module in model.modules()] == before
    assert not torch.is_inference_mode_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    for kind, options in STOCHASTIC:
        Sampler(World(kind), **options)(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_compute_dtype_is_the_sampler_s_own():
    model = small_model()
    full = Sampler(model)(8, seed=1)
    half = Sampler(model, dtype=torch.bfloat16)(8, seed=1)
    assert model.dtype is None and half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.1
    assert torch.equal(Sampler(model)(8, seed=1), full)


def test_copies_and_pickles_make_the_same_images():
    sampler = Sampler(small_model(label_dim=3), steps=3, gamma=0.5)
    images = sampler(4, seed=2)
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler)), copy.copy(sampler)):
        assert repr(twin) == repr(sampler)
        assert torch.equal(twin(4, seed=2), images)


def test_copies_and_pickles_leave_copy_and_graphs_behind(monkeypatch):
    FakeCuda(monkeypatch)
    sampler = Sampler(unet_model(), steps=2, graphs=True, buckets=(2,))
    images = sampler(2, seed=4)
    small = len(pickle.dumps(Sampler(unet_model(), steps=2, graphs=True, buckets=(2,))))
    assert len(pickle.dumps(sampler)) < small + 500
    for twin in (copy.deepcopy(sampler), pickle.loads(pickle.dumps(sampler)), copy.copy(sampler)):
        assert repr(twin) == repr(sampler) and "buckets=(2,)" in repr(twin)
        pool = twin.__dict__["_engine"].pool
        assert pool.fallback == "error" and len(pool) == 0
        assert torch.equal(twin(2, seed=4), images)


def test_repr_prints_every_option_and_the_object_is_frozen():
    sampler = Sampler(small_model(), steps=2)
    for field in dataclasses.fields(Sampler)[1:]:
        assert f"{field.name}={getattr(sampler, field.name)!r}" in repr(sampler)
    assert repr(sampler).startswith("Sampler(Denoiser of kind 'trajectory', steps=2")
    with pytest.raises(dataclasses.FrozenInstanceError):
        sampler.steps = 3


@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_trajectory(kind, options):
    sampler = Sampler(World(kind), batch_size=2, clip=False, **options)
    path = sampler.trajectory(5, seed=4)
    assert len(path) == sampler.steps + 1
    assert path[-1][0] == sampler.sigmas[-1]
    assert torch.equal(path[-1][1], sampler(5, seed=4))
    first = 80 * noise_for(image_seeds(4, 5), 0, (2, 4, 4))
    assert path[0][0] == pytest.approx(80)
    assert torch.equal(path[0][1], first)
    for (sigma, x), level in zip(path, sampler.sigmas, strict=True):
        assert x.shape == (5, 2, 4, 4) and not x.is_inference()
        churned = sampler.method == "churn" and 0.05 <= level <= 50
        assert sigma > level * 1.3 if churned else sigma == pytest.approx(level)


def test_progress_bar(capsys):
    Sampler(World(), steps=2, progress=True, batch_size=2)(4)
    assert capsys.readouterr().err.count("2/2") >= 2
    Sampler(World(), steps=2)(4)
    assert capsys.readouterr().err == ""


def test_the_k_diffusion_form_agrees_with_the_front_door():
    model, x = World(), latents(3).float()
    sampler = Sampler(model, steps=3, gamma=0.5, clip=False)
    seeds = image_seeds(0, 3)

    def noise_sampler(sigma, sigma_to):
        step = 1 + [float(sigma) == level for level in sampler.sigmas].index(True)
        return noise_for(seeds, step, (2, 4, 4))

    images = sample_gamma(
        model, x, sampler.sigmas, disable=True, gamma=0.5, noise_sampler=noise_sampler
    )
    assert torch.equal(images, sampler(noise=x, seed=0))


def test_bad_calls():
    sampler = Sampler(World(), steps=2)
    for call, named in [
        (dict(), "how many"),
        (dict(num=2, labels=[0, 1]), "unconditional"),
        (dict(num=2, seed=[1]), "disagree"),
        (dict(num=2, seed=1.5), "1.5"),
        (dict(noise=torch.zeros(2, 3, 4, 4)), r"\(2, 2, 4, 4\)"),
        (dict(num=1, noise=torch.zeros(2, 2, 4, 4)), "disagree"),
    ]:
        with pytest.raises(ValueError, match=named):
            sampler(**call)
    with pytest.raises(ValueError, match="outside"):
        Sampler(small_model(label_dim=3))(labels=[3])


@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_nothing_reads_from_the_device(kind, options):
    # A meta tensor has no values: reading one, as a host synchronisation would, is an error.
    model = small_model(kind, label_dim=3).to("meta")
    images = Sampler(model, batch_size=2, **options)(5)
    assert images.is_meta and images.shape == (5, 2, 4, 4)


@pytest.mark.gpu
@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_gpu_loop_never_waits_and_makes_the_same_images(kind, options):
    model = small_model(kind, label_dim=3)
    expected = Sampler(model, **options)(6, seed=1)
    sampler = Sampler(copy.deepcopy(model).cuda(), **options)
    sampler(6, seed=1)

    def watch(info):
        torch.cuda.set_sync_debug_mode("error")

    try:
        images = sampler(6, seed=1, callback=watch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(images.cpu(), expected, rtol=0, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("kind, options", STOCHASTIC + DETERMINISTIC)
def test_gpu_graphs_make_the_images_of_the_model_and_never_wait(kind, options):
    model = unet_model(kind, label_dim=3).cuda()
    expected = Sampler(model, clip=False, freeze=False, **options)(11, seed=3)
    sampler = Sampler(model, clip=False, graphs=True, buckets=(1, 2, 4), **options)
    labels = torch.arange(11) % 3
    sampler(labels=labels, seed=3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images = sampler(labels=labels, seed=3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-2)
    assert len(sampler.__dict__["_engine"].pool) == 1
    with torch.no_grad():
        model.net.last_layer.weight.mul_(2)
    changed = Sampler(model, clip=False, freeze=False, **options)(2, seed=3)
    torch.testing.assert_close(sampler(2, seed=3), changed, rtol=0, atol=1e-2)


@pytest.mark.gpu
def test_gpu_makes_the_images_of_the_cpu():
    model = unet_model()
    here = Sampler(model, steps=2, gamma=0.5)(5, seed=7)
    there = Sampler(copy.deepcopy(model).cuda(), steps=2, gamma=0.5, graphs=True)(5, seed=7)
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=1e-2)
