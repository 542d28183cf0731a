"""Restored images: the known part is kept, the unknown one follows its conditional distribution."""

import itertools

import pytest
import torch

from ctm_fast.editing import Colourisation, Inpainting, Restorer, SuperResolution
from ctm_fast.sampler import Sampler, image_seeds

from ..analytic import GaussianNet
from ..sampler.worlds import small_model, unet_model
from .worlds import STD, Correlated, left_half, sampler

MASK = left_half()
OPERATORS = [Inpainting(MASK), Colourisation(), SuperResolution(2)]
NUM = 2000
IMAGE = torch.full((1, 4, 4), 2 * STD, dtype=torch.float64)  # two standard deviations from the mean


def completions(restorer: Restorer) -> torch.Tensor:
    """Unknown pixels of NUM completions of IMAGE: (NUM, unknown)."""
    return restorer(IMAGE.expand(NUM, -1, -1, -1), seed=0)[:, :, ~MASK].flatten(1)


def errors(found: torch.Tensor) -> tuple[float, float]:
    """Relative errors of mean and covariance, as norms."""
    truth = Correlated().conditional(IMAGE, MASK)
    mean, covariance = found.mean(0), torch.cov(found.T)
    return tuple(
        float((a - b).norm() / b.norm())
        for a, b in ((mean, truth.mean), (covariance, truth.covariance))
    )


def test_independent_pixels_follow_the_prior() -> None:
    net = GaussianNet(resolution=4)
    restorer = Restorer(Sampler(net.denoiser(), steps=4, gamma=1, clip=False), Inpainting(MASK))
    known = 0.7 * torch.ones(512, 1, 4, 4)
    images = restorer(known, seed=0)
    assert torch.equal(images[..., :2], known[..., :2])
    unknown = images[..., 2:]
    n = unknown.numel()
    assert abs(unknown.mean()) < 5 * 0.5 / n**0.5
    assert abs(unknown.std() / 0.5 - 1) < 5 / (2 * n) ** 0.5


def test_many_steps_approach_the_conditional_distribution() -> None:
    # Measured: mean 0.34, covariance 0.14 after 40 steps; 0.13 and 0.06 with 4 repeats. Exact
    # samples, as few of them, are off by 0.02 and 0.05, the prior by 1 and 0.43.
    few, many, again = (
        errors(completions(Restorer(sampler(steps=n, gamma=1, clip=False), *how)))
        for n, how in (
            (10, [Inpainting(MASK)]),
            (40, [Inpainting(MASK)]),
            (40, [Inpainting(MASK), 4]),
        )
    )
    assert few[0] > many[0] > again[0] and few[1] > many[1] > again[1]
    assert many[0] < 0.4 and many[1] < 0.2
    assert again[0] < 0.2 and again[1] < 0.1


@pytest.mark.slow
def test_very_many_steps_reach_it() -> None:
    restorer = Restorer(sampler(steps=80, gamma=1, clip=False), Inpainting(MASK), repeats=8)
    mean, covariance = errors(completions(restorer))
    assert mean < 0.1 and covariance < 0.08  # measured: 0.06 and 0.04


KINDS = [
    ("trajectory", dict(steps=4)),
    ("trajectory", dict(steps=4, gamma=0.3)),
    ("trajectory", dict(steps=4, gamma=1)),
    ("trajectory", dict(method="jumps", sigmas=(80, 3, 0.002), landings=(1, 0.002))),
    ("trajectory", dict(method="heun", steps=4)),
    ("consistency", dict(steps=1)),
    ("consistency", dict(steps=4)),
    ("consistency", dict(steps=4, renoise="zero")),
    ("consistency", dict(method="phased", edges=(3.0, 0.5))),
    ("denoiser", dict(steps=4)),
    ("denoiser", dict(method="euler", steps=4)),
    ("denoiser", dict(method="churn", steps=4)),
]


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_what_is_known_is_kept(operator, kind, options, clip) -> None:
    world = Correlated(channels=3)
    known = operator.measure(2 * world.images(3)).float()
    known = known.clamp(-0.9, 0.9)
    restorer = Restorer(sampler(kind, 3, clip=clip, state_dtype=torch.float32, **options), operator)
    images = restorer(known, seed=1)
    assert images.shape == (3, 3, 4, 4) and images.dtype == torch.float32
    assert not images.is_inference() and (not clip or images.abs().max() <= 1)
    if isinstance(operator, Inpainting):
        assert torch.equal(images[..., :2], known[..., :2])
    else:
        torch.testing.assert_close(operator.measure(images), known, rtol=0, atol=5e-7)
    assert restorer.sampler.model.calls == restorer.nfe


def test_gamma_one_is_song_et_als_algorithm_4() -> None:
    """Jump to the end, replace, noise; written out with the sampler's own noise."""
    seen = []
    world, restorer = Correlated(), Restorer(sampler(steps=3, gamma=1), Inpainting(MASK))
    known = world.images(2, seed=5)
    images = restorer(known, seed=4, callback=seen.append)
    sigmas, low = restorer.sampler.sigmas, 0.002
    for info, (sigma, after) in zip(seen, itertools.pairwise(sigmas)):
        assert float(info["sigma"]) == sigma
        cleaned = world.jump(info["x"], torch.full((2,), sigma), torch.full((2,), low))
        cleaned = torch.where(MASK, known, cleaned)
        torch.testing.assert_close(info["denoised"], cleaned, rtol=0, atol=1e-7)
        noise = seen[info["i"] + 1]["x"] - info["denoised"] if after > low else None
        if noise is not None:
            assert abs(noise.std() / after - 1) < 0.4
    torch.testing.assert_close(images, seen[-1]["denoised"])
    start = (seen[0]["x"] - torch.where(MASK, known, 0)) / 80
    plain = []
    Sampler(Correlated(), steps=3, state_dtype=torch.float64)(2, seed=4, callback=plain.append)
    torch.testing.assert_close(start, plain[0]["x"] / 80)


def test_gamma_zero_is_deterministic_but_for_the_first_noise() -> None:
    seen = []
    restorer = Restorer(sampler(steps=3, clip=False), Inpainting(MASK))
    restorer(Correlated().images(1), seed=4, callback=seen.append)
    for before, after in itertools.pairwise(seen):
        assert torch.equal(before["denoised"], after["x"])


def test_seeds_alone_decide_whatever_the_batches() -> None:
    masks = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    known = Correlated().images(5)
    for operator in (Inpainting(masks), Inpainting(MASK), SuperResolution(2)):
        measured = operator.measure(known)
        options = dict(steps=3, gamma=0.6)
        whole = Restorer(sampler(**options), operator, 2)(measured, seed=7)
        split = Restorer(sampler(**options, batch_size=2), operator, 2)(measured, seed=7)
        torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
        alone = Restorer(sampler(**options), operator.rows(slice(3, 4)), 2)
        one = alone(measured[3:4], seed=image_seeds(7, 5)[3:4])
        torch.testing.assert_close(one, whole[3:4], rtol=0, atol=1e-12)
        assert not torch.allclose(Restorer(sampler(**options), operator)(measured, seed=8), whole)


def test_langevin_corrections_learn_of_the_known_part() -> None:
    plain, better = (
        Restorer(sampler(steps=20, corrector_steps=n, clip=False), Inpainting(MASK))
        for n in (0, 16)
    )
    assert better.nfe == 20 + 16 * 19
    # Measured: the mean is off by 0.65 without and by 0.42 with corrections.
    without, corrected = (errors(completions(r))[0] for r in (plain, better))
    assert better.sampler.model.calls == better.nfe
    assert corrected < 0.5 < without
    repeated = Restorer(sampler(steps=3, corrector_steps=2), Inpainting(MASK), repeats=2)
    images = repeated(IMAGE[None])
    assert torch.equal(images[..., :2], IMAGE[None, ..., :2].clamp(-1, 1))
    assert repeated.sampler.model.calls == repeated.nfe == 2 * 3 + 2 * 2


def test_repeats_use_other_noise_each_and_count() -> None:
    restorer = Restorer(sampler(steps=2, gamma=1), Inpainting(MASK), repeats=3)
    assert restorer.nfe == 6
    seen = []
    restorer(Correlated().images(1), callback=seen.append)
    assert [info["i"] for info in seen] == [0, 1] and restorer.sampler.model.calls == 6


def test_networks_keep_their_modes_and_frozen_ones_agree() -> None:
    known, mask = 0.1 * torch.ones(2, 2, 4, 4), Inpainting(left_half())
    for kind in ("trajectory", "consistency", "denoiser"):
        model = unet_model(kind)
        model.net.train()
        next(model.net.children()).eval()
        modes = [module.training for module in model.modules()]
        frozen, plain = (
            Restorer(Sampler(model, steps=2, freeze=freeze), mask)(known, seed=1)
            for freeze in (True, False)
        )
        torch.testing.assert_close(frozen, plain, rtol=0, atol=1e-3)
        assert [module.training for module in model.modules()] == modes


def test_labels_reach_the_model() -> None:
    model = small_model(label_dim=3)
    restorer = Restorer(Sampler(model, steps=2, clip=False), Inpainting(MASK))
    known = torch.zeros(2, 2, 4, 4)
    both = restorer(known, labels=[0, 2], seed=1)
    assert torch.equal(restorer(known, labels=0, seed=1)[0], both[0])
    assert not torch.allclose(restorer(known, labels=0, seed=1)[1], both[1])
    with pytest.raises(ValueError, match="the model has 3 classes; say which"):
        restorer(known)
    with pytest.raises(ValueError, match=r"label 3 is outside \[0, 3\)"):
        restorer(known, labels=3)


def test_callables_of_others_are_taken() -> None:
    world = Correlated()

    def network(x, sigma):
        return world(x, sigma)

    plain = Sampler(network, kind="denoiser", shape=(1, 4, 4), steps=18, clip=False)
    images = Restorer(plain, Inpainting(MASK))(torch.zeros(2, 1, 4, 4))
    assert not images[..., :2].any() and 0 < images[..., 2:].std() < 2 * STD


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Restorer(sampler(), MASK), "operator is a Tensor; need Inpainting"),
        (lambda: Restorer(sampler(), Colourisation()), "colours need"),
        (lambda: Restorer(sampler(), SuperResolution(3)), "does not divide"),
        (lambda: Restorer(sampler(), Inpainting(torch.eye(5))), "the mask is"),
        (lambda: Restorer(sampler(), SuperResolution(2), 0), "repeats is 0; it must be"),
        (lambda: Restorer(sampler(), SuperResolution(2), 1.5), "repeats is 1.5; it must be"),
        (
            lambda: Restorer(sampler("denoiser"), SuperResolution(2), 2),
            "repeats=2 needs a method that jumps, not 'heun'",
        ),
    ],
)
def test_bad_restorers_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_bad_calls_are_refused() -> None:
    restorer = Restorer(sampler(), SuperResolution(2))
    with pytest.raises(ValueError, match=r"what is known is \(2, 1, 4, 4\); need \(batch, 1, 2"):
        restorer(torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match="disagree about the number of images"):
        restorer(torch.zeros(2, 1, 2, 2), seed=[1, 2, 3])
    with pytest.raises(ValueError, match="is list; need a float tensor"):
        restorer([[0.0]])
