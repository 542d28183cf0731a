"""Strokes: kept just above sigma_min, forgotten at sigma_max, the less kept the more gamma."""

from itertools import pairwise

import pytest
import torch

from ctm_fast.editing import StrokePainter
from ctm_fast.sampler import Sampler, image_seeds

from ..sampler.worlds import small_model
from .worlds import Correlated, sampler

KINDS = [("trajectory", 3), ("consistency", 3), ("denoiser", 6)]


def strokes(num: int = 4) -> torch.Tensor:
    return Correlated().images(num, seed=2)


@pytest.mark.parametrize("kind, steps", KINDS)
def test_near_sigma_min_the_image_comes_back(kind, steps) -> None:
    painter = StrokePainter(sampler(kind, steps=steps, clip=False), sigma=0.00201)
    torch.testing.assert_close(painter(strokes()), strokes(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind, steps", KINDS)
def test_at_sigma_max_it_is_ignored(kind, steps) -> None:
    painter = StrokePainter(sampler(kind, steps=steps, clip=False), sigma=80.0)
    images = painter(strokes(), seed=3)
    # The exact flow keeps sqrt(variance)/80 of the image: below 0.015.
    assert (images - painter(-strokes(), seed=3)).abs().max() < 0.03 * strokes().abs().max()
    plain = sampler(kind, steps=steps, clip=False)(4, seed=3)
    torch.testing.assert_close(images, plain, rtol=0, atol=0.02)


def test_the_image_fades_as_the_level_rises() -> None:
    kept = []
    for sigma in (0.02, 0.1, 0.5, 2.0, 10.0):
        painter = StrokePainter(sampler(steps=3, clip=False), sigma)
        difference = painter(strokes(), seed=1) - painter(-strokes(), seed=1)
        kept.append(float((difference * strokes()).sum() / (2 * strokes() ** 2).sum()))
    assert all(before > after for before, after in pairwise(kept))
    assert kept[0] > 0.95 and kept[-1] < 0.1


def test_gamma_controls_fidelity() -> None:
    many, kept, spread = strokes().repeat_interleave(64, 0), [], []
    for gamma in (0, 0.3, 0.6, 1):
        painter = StrokePainter(sampler(steps=4, gamma=gamma, clip=False), sigma=0.5)
        difference = painter(many, seed=1) - painter(-many, seed=1)
        kept.append(float((difference * many).sum() / (2 * many**2).sum()))
        # What varies between images of one stroke is what is not taken from it.
        spread.append(float(painter(many, seed=1).reshape(4, 64, -1).var(1).mean()))
    assert all(before > after > 0 for before, after in pairwise(kept))
    assert spread == sorted(spread)


def test_the_levels_are_spaced_anew_or_the_samplers_own() -> None:
    painter = StrokePainter(sampler(steps=3), sigma=1.0)
    assert len(painter.levels) == 4 and painter.nfe == 3
    assert painter.levels[0] == 1.0 and painter.levels[-1] == pytest.approx(0.002)
    painter(strokes())
    assert painter.sampler.model.calls == 3
    own = StrokePainter(sampler(sigmas=(1.0, 0.3, 0.002), gamma=0.5))
    assert own.levels == (1.0, 0.3, 0.002)
    landed = StrokePainter(sampler(method="jumps", sigmas=(1.0, 0.3, 0.002), landings=(0.1, 0.002)))
    assert landed(strokes()).shape == (4, 1, 4, 4)
    assert StrokePainter(sampler("denoiser", steps=4), 1.0).levels[-1] == 0
    torch.testing.assert_close(
        StrokePainter(sampler(sigmas=painter.levels))(strokes(), seed=5),
        StrokePainter(sampler(steps=3), 1.0)(strokes(), seed=5),
    )


def test_the_first_state_has_the_level_asked_for() -> None:
    seen = []
    painter = StrokePainter(sampler(steps=2, clip=False), sigma=3.0)
    painter(strokes(64), seed=1, callback=seen.append)
    noise = seen[0]["x"] - strokes(64)
    assert abs(noise.std() / 3.0 - 1) < 0.1 and float(seen[0]["sigma"]) == 3.0


def test_seeds_alone_decide_whatever_the_batches() -> None:
    options = dict(steps=3, gamma=0.5)
    whole = StrokePainter(sampler(**options), 1.0)(strokes(), seed=7)
    split = StrokePainter(sampler(**options, batch_size=3), 1.0)(strokes(), seed=7)
    torch.testing.assert_close(split, whole, rtol=0, atol=1e-12)
    one = StrokePainter(sampler(**options), 1.0)(strokes()[2:3], seed=image_seeds(7, 4)[2:3])
    torch.testing.assert_close(one, whole[2:3], rtol=0, atol=1e-12)
    assert whole.abs().max() <= 1 and not whole.is_inference()


def test_labels_reach_the_model() -> None:
    painter = StrokePainter(Sampler(small_model(label_dim=3), steps=2, clip=False), 1.0)
    images = torch.zeros(2, 2, 4, 4)
    assert not torch.allclose(painter(images, labels=1), painter(images, labels=2))
    with pytest.raises(ValueError, match="the model has 3 classes"):
        painter(images)


@pytest.mark.parametrize("sigma", [0.002, 0.0, -1.0, 81.0, float("nan")])
def test_bad_levels_are_refused(sigma) -> None:
    with pytest.raises(ValueError, match=r"sigma is .*; it must lie in \(0.002, 80\]"):
        StrokePainter(sampler(), sigma)


def test_bad_images_and_methods_are_refused() -> None:
    with pytest.raises(ValueError, match=r"the image is \(1, 3, 4, 4\); need \(batch, 1, 4, 4\)"):
        StrokePainter(sampler(), 1.0)(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="up to 2; need"):
        StrokePainter(sampler(), 1.0)(torch.full((1, 1, 4, 4), 2.0))
    phased = sampler("consistency", method="phased", edges=(1.0,))
    with pytest.raises(ValueError, match=r"sigma=2.0 with method .phased.: give the sampler"):
        StrokePainter(phased, 2.0)
