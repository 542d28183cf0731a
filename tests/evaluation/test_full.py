"""The whole path with small networks: images of a model to numbers with their cards."""

import dataclasses
import json
import sys

import pytest
import torch

from ctm_fast import Sampler, data
from ctm_fast.data.dataset import ArrayDataset
from ctm_fast.evaluation import (
    Extractor,
    ModelFacts,
    Moments,
    Reference,
    SampledImages,
    StoredImages,
    evaluate_full,
    frechet_distance,
    read_reference,
    reference_of,
    trained_classifier,
    write_reference,
)
from ctm_fast.evaluation.protocol import quantized
from ctm_fast.rng import stream
from tests.evaluation.small import WIDTH, Features, extractor, noise
from tests.trainer import tiny

SMALL = extractor()
REAL = reference_of(StoredImages(noise(60)), SMALL, features=True)
ALL = ("fid", "kid", "is", "pr")


def numbers(runs, reference=REAL, metrics=ALL, **options):
    found = evaluate_full(runs, SMALL, reference, metrics, **options)
    return {number.name: number for number in found}


def test_numbers_of_stored_images() -> None:
    near, far = (numbers([StoredImages(noise(60, 1, shift))]) for shift in (0, 100))
    assert list(near) == ["fid", "kid", "kid_std", "is", "is_std", "precision", "recall"]
    assert near["fid"].value < far["fid"].value and near["kid"].value < far["kid"].value
    assert near["recall"].value > far["recall"].value + 0.2
    own = SMALL(noise(60, 1).pixels(torch.arange(60)))[0]
    moments = Moments(WIDTH)
    moments.add(own)
    expected = frechet_distance(moments.mean, moments.covariance, REAL.mean, REAL.covariance)
    assert near["fid"].value == pytest.approx(expected, rel=1e-6)


def test_cards_are_complete(tmp_path) -> None:
    sampler = Sampler(tiny.denoiser(), steps=2, batch_size=8)
    runs = [SampledImages(sampler, 20, first, "trunc") for first in (0, 20, 40)]
    file = write_reference(tmp_path / "real.npz", REAL)
    about = ModelFacts("ctm.safetensors", "ab" * 32, 0.999, 256, 1000, ("assumed this",))
    found = numbers(runs, read_reference(file), about=about, batch_size=8)
    for number in found.values():
        card = number.to_json()["card"]
        json.dumps(card, allow_nan=False)
        unknown = {name for name, value in card.items() if value is None}
        assert unknown == ({"reference"} if number.name.startswith("is") else set())
        assert card["seeds"] == ["0-19", "20-39", "40-59"] and card["samples"] == 20
        assert card["nfe"] == 2 and card["uint8"] == "trunc" and card["resize"] == "none"
        assert card["ema_rate"] == 0.999 and card["global_batch"] == 256
        assert card["extractor"]["sha256"] == SMALL.sha256 and card["extractor"]["width"] == WIDTH
        assert "assumed this" in card["notes"] and card["commit"]
        assert len(number.values) == 3
    against = found["recall"].card.reference
    assert against["file"] == "real.npz" and against["features"] == 60
    assert against["extractor"]["sha256"] == SMALL.sha256
    # Distances: the smallest, as published; the others: the mean.
    assert found["fid"].value == min(found["fid"].values)
    assert found["fid"].card.reported == "smallest of 3 seed ranges"
    assert found["is"].value == pytest.approx(sum(found["is"].values) / 3)
    assert found["is"].card.reported == "mean of 3 seed ranges"
    assert len(set(found["fid"].values)) == 3, "the seed ranges made the same images"


def test_too_few_samples_are_noted() -> None:
    found = numbers([StoredImages(noise(WIDTH))], metrics=("fid",))
    assert "covariance is singular" in found["fid"].card.notes[0]
    assert not numbers([StoredImages(noise(30))], metrics=("fid",))["fid"].card.notes
    few = reference_of(StoredImages(noise(WIDTH)), SMALL)
    (note,) = numbers([StoredImages(noise(30))], few, ("fid",))["fid"].card.notes
    assert note.startswith(f"{WIDTH} reference images for {WIDTH} features")


def test_adm_file_with_images_only_and_with_moments() -> None:
    pixels = noise(60).pixels(torch.arange(60)).permute(0, 2, 3, 1).numpy()
    images = [StoredImages(noise(40, 1))]
    only = numbers(images, Reference(pixels=pixels), batch_size=20)
    for name, number in numbers(images, REAL).items():
        assert only[name].value == pytest.approx(number.value, rel=1e-6, abs=1e-9), name
    assert only["fid"].card.reference["mu_and_sigma_of"] == "its 60 stored images"
    # Where the file has moments they count, even if its images have others.
    shifted = Reference(REAL.mean + 1, REAL.covariance, None, pixels)
    both = numbers(images, shifted)
    assert both["fid"].value != pytest.approx(only["fid"].value)
    assert both["recall"].value == only["recall"].value


def test_a_trained_classifier_tells_digits_from_noise() -> None:
    """End to end: digits, a plug-in network trained in the test, and what it is shown."""
    digits = data.open("digits")
    every = torch.randperm(len(digits), generator=stream(1))[:600]
    labels = digits.labels(every)
    real = quantized(digits.images(every))
    judge = trained_classifier(real.float() / 127.5 - 1, labels, 10, steps=60)

    def network(pixels):
        x = pixels[:, :1].float() / 127.5 - 1
        x = torch.relu(judge.conv1(torch.relu(judge.conv0(x))))
        hidden = torch.relu(judge.linear0(x.flatten(1)))
        return hidden, judge.linear1(hidden)

    plug_in = Extractor(network, "digits classifier")
    halves = [ArrayDataset(real[k::2], name=f"half {k}") for k in (0, 1)]
    reference = reference_of(StoredImages(halves[0]), plug_in, features=True, batch_size=256)
    white = torch.randint(0, 256, (300, 1, 8, 8), generator=stream(0))
    bad = ArrayDataset(white.byte(), name="white noise")
    rows = [
        {
            n.name: n.value
            for n in evaluate_full([StoredImages(s)], plug_in, reference, ALL, batch_size=256)
        }
        for s in (halves[1], bad)
    ]
    assert rows[0]["fid"] < 0.1 * rows[1]["fid"] and rows[0]["kid"] < 0.05 * rows[1]["kid"]
    assert rows[0]["precision"] > 0.7 and rows[0]["recall"] > 0.7
    assert rows[1]["recall"] < 0.3
    assert rows[0]["is"] > 7 > rows[1]["is"]


def test_refusals() -> None:
    images = [StoredImages(noise(20, 1))]
    with pytest.raises(ValueError, match=r"metrics \['ssim'\]; choose from"):
        numbers(images, metrics=("ssim",))
    with pytest.raises(ValueError, match=r"metrics \[\]"):
        numbers(images, metrics=())
    with pytest.raises(ValueError, match=r"runs of \[20, 30\] images"):
        numbers([*images, StoredImages(noise(30))])
    with pytest.raises(ValueError, match=r"\['fid', 'pr'\] compare with real images"):
        numbers(images, None, ("pr", "is", "fid"))
    other = extractor(seed=1)
    with pytest.raises(ValueError, match="made with an extractor of sha256"):
        evaluate_full(images, other, REAL)
    bare = dataclasses.replace(REAL, features=None)
    assert numbers(images, bare, ("fid", "is"))["fid"].value > 0
    with pytest.raises(ValueError, match=r"mu and sigma only; .* --reference-out"):
        numbers(images, bare, ("pr",))
    only = Reference(features=REAL.features)
    with pytest.raises(ValueError, match="features only"):
        numbers(images, only, ("fid",))


def test_an_absent_package_is_told_before_images_are_made(monkeypatch) -> None:
    class Untouchable(StoredImages):
        def pixels(self, start, stop):
            raise AssertionError("images were made")

    monkeypatch.setitem(sys.modules, "torchmetrics.image.kid", None)
    with pytest.raises(ImportError, match=r"ctm_fast\[eval\]"):
        numbers([Untouchable(noise(20))], metrics=("is",))


def test_resize_and_weights_are_part_of_the_reference() -> None:
    larger = Extractor(Features(), "small", side=12)
    made = reference_of(StoredImages(noise(20)), larger)
    with pytest.raises(ValueError, match="made with an extractor of resize"):
        numbers([StoredImages(noise(20))], made, ("fid",))
    assert made.card["extractor"]["resize"].startswith("bilinear to 12")
    assert made.card["samples"] == 20 and made.card["data"] == "noise-0-0"
