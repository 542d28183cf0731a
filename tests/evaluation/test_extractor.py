"""Plug-in extractors: what networks see, what they may answer, and what a card says of them."""

import pytest
import torch

from ctm_fast.evaluation import Extractor
from tests.evaluation.small import CLASSES, WIDTH, Features

GREY = torch.arange(2 * 64, dtype=torch.uint8).reshape(2, 1, 8, 8)


def test_features_and_logits_of_grey_images() -> None:
    features, logits = Extractor(Features(), "small")(GREY)
    assert features.shape == (2, WIDTH) and logits.shape == (2, CLASSES)
    assert not features.requires_grad
    expected = Features(logits=False)(GREY.repeat(1, 3, 1, 1))
    assert torch.equal(features, expected)


def test_a_function_of_bytes_is_an_extractor() -> None:
    seen = []

    def mean(images):
        seen.append(images)
        return images.double().mean((2, 3))

    features, logits = Extractor(mean, "mean", side=16)(GREY)
    assert seen[0].dtype == torch.uint8 and seen[0].shape == (2, 3, 16, 16)
    assert features.shape == (2, 3) and logits is None


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: x.float(), r"gave features torch.Size\(\[2, 3, 8, 8\]\) for 2 images"),
        (lambda x: x.float().mean((0, 2, 3)), "gave features"),
        (lambda x: (x.float().mean((2, 3)), x.float()), "gave logits"),
        (lambda x: "text", "gave features str"),
        (lambda x: x.float().mean((2, 3)) / 0, "features that are not finite"),
    ],
)
def test_answers_that_are_refused(answer, message) -> None:
    with pytest.raises(ValueError, match=message):
        Extractor(answer, "wrong")(GREY)


def test_what_a_card_says() -> None:
    one = Extractor(Features(0), "small").described()
    other = Extractor(Features(1), "small", side=299).described()
    assert len(one["sha256"]) == 64 and one["sha256"] != other["sha256"]
    assert one["resize"] == "none" and "bilinear to 299" in other["resize"]
    assert Extractor(lambda x: x, "function").described()["sha256"] is None


def test_refused_when_made() -> None:
    with pytest.raises(ValueError, match="training mode"):
        Extractor(Features().train(), "small")
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        Extractor(Features(), "small", side=0)
