"""Bits per dimension, and the residual that CTM's program computes and the one it means."""

import pytest
import torch

from ctm_fast.likelihood import Flow, bits, bits_per_dim, dequantised, log_likelihood
from ctm_fast.likelihood.per_dim import early_levels, early_stop
from tests.analytic import Gaussian
from tests.likelihood.worlds import LN2, drawn, gaussian


def grey(*shape):
    return (drawn(*shape, scale=0.5).clamp(-1, 1) * 8).round() / 8


def test_closed_form_on_dequantised_images():
    images, model = grey(4, 1, 4, 4), gaussian(0.5)
    for way, constant in (("centred", 3.0), ("published", 3.0874628)):
        found = bits_per_dim(model, images.float(), levels=17, dequantise=way, seed=3)
        x = dequantised(images, 17, way, seed=3)
        exact = -Gaussian().log_prob(x, 0.002) / 16 / LN2 + constant
        assert (found - exact).abs().max() < 1e-3
        assert found.dtype == torch.float64
    x = dequantised(images, 17, seed=3)
    assert torch.equal(
        bits_per_dim(model, images, levels=17, seed=3), bits(log_likelihood(model, x), 16, 17)
    )


def test_the_levels_of_eval_bpd():
    t, wrong = early_levels(gaussian())
    assert t == pytest.approx(0.0020501, abs=1e-7)
    assert wrong == pytest.approx(0.41302, abs=1e-5)


def test_official_residual_is_0_293_bits_too_low():
    """ctm.md 4.4: -8e-6 nats/dim where it is right, -0.2028 as published."""
    model, x = gaussian(channels=3, size=16), drawn(512, 3, 16, 16)
    noise, dims = drawn(512, 3, 16, 16, seed=1, scale=1.0), 768
    t, wrong = early_levels(model)
    fixed, official = (
        early_stop(model, x, noise, level, None, Flow(batch_size=100)).mean() / dims
        for level in (t, wrong)
    )
    # 400 thousand values of variance 1/2.
    assert float(fixed) == pytest.approx(-8.4e-6, abs=5e-3)
    assert float(official) == pytest.approx(-0.2028, abs=5e-3)
    assert float(official - fixed) / LN2 == pytest.approx(-0.293, abs=8e-3)


def test_residuals_end_to_end():
    model, x = gaussian(channels=3, size=8), drawn(64, 3, 8, 8)
    options = {"dequantise": None, "trace": "hutchinson", "rtol": 1e-4, "atol": 1e-4}
    plain = bits_per_dim(model, x, **options)
    fixed = bits_per_dim(model, x, residual="fixed", batch_size=50, **options)
    official = bits_per_dim(model, x, residual="official", **options)
    # The noise of the residual scatters by sqrt(1/(2 d))/ln 2 per image.
    scatter = 0.5**0.5 / 192**0.5 / LN2
    assert float((fixed - plain).std()) == pytest.approx(scatter, rel=0.3)
    assert abs(float((fixed - plain).mean())) < 4 * scatter / 8
    assert float((official - fixed).mean()) == pytest.approx(-0.293, abs=4 * scatter / 8)


def test_what_is_refused():
    images, model = grey(2, 1, 4, 4), gaussian()
    with pytest.raises(ValueError, match=r"residual is 'correct'; choose from \('fixed', 'offi"):
        bits_per_dim(model, images, levels=17, residual="correct")
    with pytest.raises(ValueError, match="levels is 1"):
        bits_per_dim(model, images, levels=1)
    with pytest.raises(ValueError, match="allowed are those in"):
        bits_per_dim(model, 100 * images, levels=17)
    with pytest.raises(ValueError, match=r"images are torch\.uint8"):
        bits_per_dim(model, images.to(torch.uint8))
    with pytest.raises(ValueError, match="not finite"):
        bits_per_dim(model, images * torch.nan)
