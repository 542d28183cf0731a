"""Features of many images: kept where asked for, in order, and refused where they are wrong."""

import pytest
import torch

from ctm_fast.evaluation import Extractor, StoredImages
from ctm_fast.evaluation.measuring import measured
from tests.evaluation.small import WIDTH, extractor, noise

IMAGES = StoredImages(noise(20))


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_features_in_the_order_of_the_images(batch_size) -> None:
    made = extractor()
    found = measured(IMAGES, made, batch_size, features=True, logits=True)
    features, logits = made(IMAGES.pixels(0, 20))
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits, logits)
    assert found.moments.count == 20
    torch.testing.assert_close(found.moments.mean, features.double().mean(0), rtol=1e-6, atol=1e-6)


def test_nothing_is_kept_unasked() -> None:
    found = measured(IMAGES, extractor())
    assert found.features is None and found.logits is None
    assert found.moments.covariance.shape == (WIDTH, WIDTH)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        measured(IMAGES, extractor(), 0)
    with pytest.raises(ValueError, match="gives no logits, which the Inception score"):
        measured(IMAGES, extractor(logits=False), logits=True)
    with pytest.raises(ValueError, match="not finite"):
        measured(IMAGES, Extractor(lambda x: x.float().mean((2, 3)) / 0, "infinite"))
