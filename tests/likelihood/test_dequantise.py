"""Grey levels as intervals, and the constants of bits/dim."""

import math

import pytest
import torch

from ctm_fast import data
from ctm_fast.likelihood import bits, dequantised
from ctm_fast.likelihood.dequantise import interval


def grey(levels, *shape):
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, levels, shape, generator=generator)
    return values, values.float() / ((levels - 1) / 2) - 1


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_constants(levels):
    zero = torch.zeros(1, dtype=torch.float64)
    centred, published = (float(bits(zero, 5, levels, way)) for way in ("centred", "published"))
    assert centred == pytest.approx(math.log2((levels - 1) / 2))
    assert published == pytest.approx(math.log2(levels / 2))
    assert float(bits(zero, 5, levels, None)) == published
    assert float(bits(zero + 10 * math.log(2), 5, levels)) == pytest.approx(centred - 2)


def test_constants_of_the_specification():
    zero = torch.zeros(1)
    assert float(bits(zero, 1, 256, "published")) == 7
    assert float(bits(zero, 1, 17, "published")) == pytest.approx(3.08746, abs=1e-5)
    assert float(bits(zero, 1, 17, "centred")) == 3


@pytest.mark.parametrize("way", ["centred", "published"])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_histogram_has_its_own_entropy(levels, way):
    """The density p(x) = P(v)/w has exactly -log2 P(v) bits: the constant fits the intervals."""
    values, images = grey(levels, 400, 1, 5, 5)
    x, width = dequantised(images, levels, way), interval(levels, way)
    low = -1 - width / 2 if way == "centred" else -1.0
    assert x.dtype == torch.float64
    assert torch.equal(((x - low) / width).floor().long(), values)
    within = (x - low) / width - values
    assert within.min() >= 0 and within.max() < 1
    assert abs(float(within.mean()) - 0.5) < 0.01 and abs(float(within.var()) - 1 / 12) < 0.003
    shares = torch.bincount(values.flatten(), minlength=levels) / values.numel()
    log_p = (shares[values].double() / width).log().flatten(1).sum(1)
    entropy = -(shares * shares.clamp(min=1e-30).log2()).sum()
    assert float(bits(log_p, 25, levels, way).mean()) == pytest.approx(float(entropy), abs=1e-5)


def test_noise_belongs_to_the_seed_of_an_image():
    _, images = grey(17, 3, 1, 4, 4)
    whole = dequantised(images, 17, seed=5)
    assert torch.equal(dequantised(images, 17, seed=5), whole)
    same = dequantised(images[:1].expand(3, -1, -1, -1), 17, seed=[1, 2, 1])
    assert torch.equal(same[0], same[2]) and not torch.equal(same[0], same[1])
    assert dequantised(images[:0], 17).shape == (0, 1, 4, 4)


def test_digits_are_on_their_levels():
    images = data.open("digits").images(torch.arange(20))
    assert dequantised(images, 17).shape == images.shape
    assert torch.equal(dequantised(images, 17, None), images.double())


def test_what_is_refused():
    _, images = grey(17, 2, 1, 4, 4)
    for levels in (1, 0, True, 2.0):
        with pytest.raises(ValueError, match=r"levels is .*; it must be an integer, at least 2"):
            dequantised(images, levels)
    with pytest.raises(ValueError, match="dequantise is 'uniform'; choose from"):
        dequantised(images, 17, "uniform")
    with pytest.raises(ValueError, match=r"values in \[.*\]; allowed are those in \[-1, 1\]"):
        dequantised(127.5 * (images + 1), 17)
    with pytest.raises(ValueError, match="off the 256 grey levels"):
        dequantised(images, 256)
    with pytest.raises(ValueError, match=r"seed has 3 entries; need one per image, 2"):
        dequantised(images, 17, seed=[1, 2, 3])
