"""Langevin corrections: closed-form variances of Gaussian data, noise, where they take place."""

import pickle
from itertools import pairwise

import pytest
import torch

from ctm_fast.sampler import Langevin, Sampler, image_seeds, noise_for, sample_heun, sample_jumps
from ctm_fast.sampler.langevin import CORRECTABLE, corrected
from ctm_fast.sampler.seeding import CORRECTOR, GeneratorNoise, SeededNoise
from ctm_fast.solvers import Heun
from ctm_fast.wrappers import Guided

from ..inference.fake_cuda import FakeCuda
from .test_guided import EXACT, One
from .worlds import SD, World, latents, small_model, unet_model

METHODS = {
    "exact": {},
    "gamma": {"gamma": 0.5},
    "cm_multistep": {},
    "jumps": {"sigmas": [80, 5, 0.5, 0.002], "landings": [4, 0.4, 0.002], "steps": None},
    "heun": {},
    "euler": {},
    "churn": {},
}


def unit(num: int, size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, 1, size, size, generator=generator, dtype=torch.float64)


def test_formula() -> None:
    score, noise = unit(3, 4, 1), unit(3, 4, 2)
    x = unit(3, 4, 0)
    found = corrected(x, score, noise, 0.3)
    for i in range(3):
        h = 2 * (0.3 * noise[i].norm() / score[i].norm()) ** 2
        expected = x[i] + h * score[i] + (2 * h).sqrt() * noise[i]
        torch.testing.assert_close(found[i], expected, rtol=1e-12, atol=1e-12)
    still = corrected(x, torch.zeros_like(x), noise)
    assert torch.equal(still, x), "without a direction there is no length"
    assert corrected(x.float(), score.float(), noise.float()).dtype == torch.float32


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.3])
@pytest.mark.parametrize("off", [0.5, 1.0, 2.0])
def test_variance_of_gaussian_data(snr, off) -> None:
    # With score -x / V and variance a V, h / V = 2 snr^2 / a, and so
    # a' = a (1 - h / V)^2 + 2 h / V = a - 4 snr^2 + 4 snr^2 (1 + snr^2) / a, at rest for 1 + snr^2.
    V, a = 0.7, off
    x = unit(200, 32, 0) * (a * V) ** 0.5
    for step in range(40):
        x = corrected(x, -x / V, unit(200, 32, step + 1), snr)
        a = a - 4 * snr**2 + 4 * snr**2 * (1 + snr**2) / a
        if step in (0, 39):
            # 204800 numbers: the standard error of a variance is 0.3 %.
            assert float(x.var() / V) == pytest.approx(a, rel=0.01)
        if step == 0 and off == 1:
            assert a == pytest.approx(1 + 4 * snr**4)
    assert abs(a - 1) <= max(snr**2, 0.9 * abs(off - 1))
    if snr >= 0.16:
        assert a == pytest.approx(1 + snr**2, rel=0.05)


class Wrong(World):
    """Jumps that lose a part of the variance, and an exact denoiser."""

    def jump(self, x, sigma, sigma_to, labels=None):
        return 0.8 * super().jump(x, sigma, sigma_to)


def variance(model, corrector_steps: int) -> float:
    """Of the images, in units of the data's."""
    model.img_resolution = 16
    levels = [80.0, 20.0, 6.0, 2.0, 0.7, 0.25, 0.08, 0.002]
    sampler = Sampler(model, sigmas=levels, corrector_steps=corrector_steps, **EXACT)
    return float(sampler(100, seed=2).var()) / (SD**2 + 0.002**2)


def test_a_sampler_keeps_a_right_variance_and_mends_a_wrong_one() -> None:
    assert variance(World(), 0) == pytest.approx(1, abs=0.02)
    assert variance(World(), 3) == pytest.approx(1 + 0.16**2, abs=0.02)
    wrong, mended = variance(Wrong(), 0), variance(Wrong(), 12)
    assert wrong == pytest.approx(0.64**7, rel=0.05)
    # The last jump loses its part after the last correction.
    assert mended == pytest.approx(0.64, abs=0.06)


def test_the_guided_density_is_what_corrections_lead_to() -> None:
    good, bad = One(0.8, 0.3, "trajectory", size=16), One(0.2, 0.3, "trajectory", size=16)
    sampler = Sampler(good, steps=6, bad=bad, guidance=2.0, corrector_steps=2, **EXACT)
    images = sampler(100, seed=1)
    assert float(images.mean()) == pytest.approx(1.4, abs=0.005)
    assert float(images.var() / 0.3**2) == pytest.approx(1.02, abs=0.04)
    assert sampler.nfe == 2 * (6 + 2 * 5)


@pytest.mark.parametrize("method", CORRECTABLE)
def test_network_calls_and_batch_splits(method) -> None:
    assert set(METHODS) == set(CORRECTABLE)
    options = {"steps": 3, "method": method, "corrector_steps": 2, "clip": False}
    options |= METHODS[method]
    world = World()
    sampler = Sampler(world, **options)
    images = sampler(5, seed=3)
    plain = Sampler(World(), **{**options, "corrector_steps": 0})
    assert sampler.nfe == world.calls == plain.nfe + 2 * 2
    assert not torch.equal(images, plain(5, seed=3))
    for size in (1, 2):
        split = Sampler(World(), batch_size=size, **options)(5, seed=3)
        assert torch.equal(split, images)
    assert torch.equal(sampler(3, seed=3), images[:3])
    assert not torch.equal(sampler(5, seed=4), images)
    assert torch.equal(pickle.loads(pickle.dumps(sampler))(5, seed=3), images)
    path = sampler.trajectory(5, seed=3)
    assert torch.equal(path[-1][1], images)


@pytest.mark.parametrize("snr", [0.16, 0.4])
def test_corrections_stand_before_every_step_but_the_first(snr) -> None:
    seeds, shape, model = image_seeds(3, 4), (2, 4, 4), World()
    options = dict(steps=3, corrector_steps=2, snr=snr, **EXACT)

    def loop(sampler, step):
        x = 80 * noise_for(seeds, 0, shape, dtype=torch.float64)
        for i, (sigma, sigma_to) in enumerate(pairwise(sampler.sigmas)):
            for again in range(2 if i else 0):
                level = torch.full((4,), sigma, dtype=torch.float64)
                score = (model(x, level) - x) / sigma**2
                noise = noise_for(seeds, CORRECTOR * (again + 1) + i, shape, dtype=torch.float64)
                x = corrected(x, score, noise, snr)
            x = step(x, sigma, sigma_to)
        return x

    def heun(x, sigma, sigma_to):
        return Heun().step(lambda x, s, _=None: model.data(x, s), x, sigma, sigma_to, None)

    for method, step in (("exact", model.data.jump), ("heun", heun)):
        sampler = Sampler(model, method=method, **options)
        torch.testing.assert_close(sampler(4, seed=3), loop(sampler, step), rtol=1e-9, atol=1e-9)


def test_before_churn() -> None:
    options = dict(method="churn", steps=3, corrector_steps=1, **EXACT)
    still = Sampler(World(), S_churn=0, **options)(4, seed=1)
    heun = Sampler(World(), **{**options, "method": "heun"})(4, seed=1)
    assert torch.equal(still, heun)
    assert not torch.equal(Sampler(World(), **options)(4, seed=1), heun)


def test_streams_of_their_own() -> None:
    x, seeds = latents(3), image_seeds(0, 3)
    noise = SeededNoise(seeds, [80.0, 1.0, 0.5, 0.002], x)
    drawn = [noise.corrector(i, again) for i in (1, 2) for again in (0, 1)]
    drawn += [noise(torch.tensor(level), None) for level in (80.0, 1.0, 0.5)]
    for i, one in enumerate(drawn):
        assert one.dtype == x.dtype and one.shape == x.shape
        assert not any(torch.equal(one, other) for other in drawn[i + 1 :])


def test_noise_of_a_host() -> None:
    sampler = Sampler(World(), steps=3, corrector_steps=1, clip=False)

    def generators(seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    images = sampler(generator=generators([1, 2, 3]))
    split = Sampler(World(), steps=3, corrector_steps=1, clip=False, batch_size=1)
    assert torch.equal(split(generator=generators([1, 2, 3])), images)
    calls = []

    def randn_like(x):
        calls.append(len(x))
        return torch.zeros_like(x)

    sampler(2, randn_like=randn_like)
    assert calls == [2, 2, 2], "the first state, and two corrections"


def test_k_diffusion_form() -> None:
    sigmas, x = [80.0, 5.0, 0.5, 0.0], latents(3)
    for sample, options in ((sample_heun, {}), (sample_jumps, {"landings": [4.0, 0.5]})):
        model = World()

        def images(model=model, sample=sample, options=options, **more):
            noise = GeneratorNoise(x, torch.Generator().manual_seed(1))
            correct = Langevin(model, sigmas, noise, **more)
            args = (model, x, sigmas, None, None, True)
            return sample(*args, correct=correct, noise_sampler=noise, **options)

        assert torch.equal(images(), images()) and images().dtype == x.dtype
        assert not torch.equal(images(steps=2), images())


def test_labels_reach_the_score() -> None:
    model = small_model(label_dim=3)
    sampler = Sampler(model, steps=3, corrector_steps=1)
    one, other = (sampler(labels=label, seed=[5]) for label in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [dict(steps=3), dict(steps=3, method="churn")])
def test_one_graph_with_corrections(options, monkeypatch) -> None:
    monkeypatch.setattr("ctm_fast.models.arguments._check_labels", lambda *args: None)
    fake, model = FakeCuda(monkeypatch), Guided(unet_model(label_dim=3), weight=1.5)
    options |= dict(corrector_steps=1, clip=False)
    expected = Sampler(model, freeze=False, **options)(5, seed=3)
    sampler = Sampler(model, graphs=True, buckets=(2,), **options)
    for _ in range(2):
        torch.testing.assert_close(sampler(5, seed=3), expected, rtol=0, atol=2e-3)
    assert len(fake.captured) == 1


def test_nothing_reads_from_the_device() -> None:
    model = small_model().to("meta")
    assert Sampler(model, steps=3, corrector_steps=2)(3).is_meta


@pytest.mark.parametrize(
    "kind, options, named",
    [
        ("trajectory", dict(steps=1, corrector_steps=1), "no level lies between"),
        ("trajectory", dict(steps=2, corrector_steps=-1), "corrector_steps is -1"),
        ("trajectory", dict(steps=2, corrector_steps=1.5), "corrector_steps is 1.5"),
        ("trajectory", dict(steps=2, corrector_steps=True), "corrector_steps is True"),
        ("trajectory", dict(steps=2, snr=0.1), "snr=0.1 without corrections"),
        ("trajectory", dict(steps=2, corrector_steps=1, snr=0), r"snr is 0; it must lie in"),
        ("trajectory", dict(steps=2, corrector_steps=1, snr=1.0), "snr is 1.0"),
        ("consistency", dict(steps=2, corrector_steps=1), "of a consistency model"),
        ("trajectory", dict(method="onestep", corrector_steps=1), "method 'onestep'"),
        ("consistency", dict(method="phased", edges=[1.0], corrector_steps=1), "'phased'"),
    ],
)
def test_what_is_refused(kind, options, named) -> None:
    with pytest.raises(ValueError, match=named):
        Sampler(World(kind), **options)


def test_what_the_object_refuses() -> None:
    noise = GeneratorNoise(latents(1))
    with pytest.raises(ValueError, match="has none"):
        Langevin(World("consistency"), [80.0, 1.0, 0.002], noise)
    with pytest.raises(ValueError, match="at least 1"):
        Langevin(World(), [80.0, 1.0, 0.002], noise, steps=0)
    assert Sampler(World(), steps=2, corrector_steps=1).snr == 0.16
    assert Sampler(World(), steps=2).snr is None
