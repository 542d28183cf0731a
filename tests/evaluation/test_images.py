"""Images with one seed each: whoever makes them in whatever batches, they are the same."""

import json

import pytest
import torch
from PIL import Image

from ctm_fast import Sampler, data
from ctm_fast.evaluation import SampledImages, StoredImages
from tests.trainer import tiny


@pytest.fixture(scope="module")
def sampler():
    return Sampler(tiny.denoiser(), steps=2, method="gamma", gamma=0.5, batch_size=8)


def test_parts_are_the_whole(sampler) -> None:
    images = SampledImages(sampler, 12, first_seed=100)
    whole = images.pixels(0, 12)
    assert whole.dtype == torch.uint8 and len(images) == 12
    assert torch.equal(whole, torch.cat([images.pixels(0, 5), images.pixels(5, 12)]))
    # Image k is made from the seed 100 + k itself.
    alone = sampler(1, seed=[103], labels=images.classes(3, 4))
    assert torch.equal(whole[3:4], (alone * 127.5 + 128).clamp(0, 255).byte())
    other = SampledImages(sampler, 12, first_seed=0)
    assert not torch.equal(other.pixels(0, 12), whole)
    assert torch.equal(other.pixels(0, 1), SampledImages(sampler, 3).pixels(0, 1))


def test_rule_for_bytes(sampler) -> None:
    up, down = (SampledImages(sampler, 4, uint8=rule).pixels(0, 4) for rule in ("round", "trunc"))
    difference = up.int() - down.int()
    assert set(difference.unique().tolist()) == {0, 1}


def test_classes(sampler) -> None:
    number = sampler.model.label_dim
    balanced = SampledImages(sampler, 30, labels="balanced")
    assert balanced.classes(8, 12).tolist() == [k % number for k in range(8, 12)]
    drawn = SampledImages(sampler, 5000, labels="uniform")
    whole = drawn.classes(0, 5000)
    assert torch.equal(whole[7:9], drawn.classes(7, 9))
    counts = torch.bincount(whole, minlength=number).double()
    expected = 5000 / number
    assert float((counts - expected).square().sum() / expected) < number + 6 * (2 * number) ** 0.5
    later = SampledImages(sampler, 10, first_seed=4000)
    assert torch.equal(later.classes(0, 10), whole[4000:4010])


def test_without_classes() -> None:
    model = tiny.denoiser()
    model.net.label_dim = 0
    images = SampledImages(Sampler(model), 4)
    assert images.classes(0, 4) is None and images.described()["labels"] == "none"
    assert images.pixels(0, 2).shape == (2, 1, 4, 4)


def test_described(sampler) -> None:
    told = SampledImages(sampler, 12, first_seed=100, uint8="trunc").described()
    assert told["seeds"] == "100-111" and told["samples"] == 12 and told["nfe"] == 2
    assert told["uint8"] == "trunc" and told["sampler"]["gamma"] == 0.5
    json.dumps(told, allow_nan=False)


def test_a_card_tells_guidance_corrections_and_how_the_data_were_read(tmp_path) -> None:
    guided = Sampler(tiny.denoiser(), steps=2, guidance=1.5)
    assert "weight=1.5" in SampledImages(guided, 4).described()["sampler"]["model"]
    corrected = Sampler(tiny.denoiser(), steps=2, corrector_steps=2, snr=0.1)
    told = SampledImages(corrected, 4).described()["sampler"]
    assert told["options"] == {"corrector_steps": 2, "snr": 0.1} and told["model"] is None
    for k in range(2):
        image = torch.full((20, 16, 3), 100 * k, dtype=torch.uint8)
        Image.fromarray(image.numpy()).save(tmp_path / f"{k}.png")
    stored = StoredImages(data.open(tmp_path, size=8, resize="adm", flip=True)).described()
    assert stored["data_details"] == {"size": 8, "resize": "adm", "flip": True}
    json.dumps([told, stored], allow_nan=False)


def test_refusals(sampler) -> None:
    with pytest.raises(ValueError, match="num=0"):
        SampledImages(sampler, 0)
    with pytest.raises(ValueError, match="unknown labels 'random'"):
        SampledImages(sampler, 4, labels="random")
    with pytest.raises(ValueError, match="unknown uint8 rule"):
        SampledImages(sampler, 4, uint8="floor")
    with pytest.raises(ValueError, match="1798 images of 'digits'; allowed are 1 to 1797"):
        StoredImages(data.open("digits"), 1798)


def test_images_that_are_not_finite() -> None:
    broken = tiny.denoiser()
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    sampler = Sampler(broken, batch_size=4)
    with pytest.raises(ValueError, match="seeds 5 to 8 are not all finite"):
        SampledImages(sampler, 20, first_seed=5).pixels(0, 4)


def test_stored() -> None:
    images = StoredImages(data.open("digits"), 10)
    assert len(images) == 10 and images.pixels(2, 5).shape == (3, 1, 8, 8)
    assert images.pixels(0, 10).max() == 255
    told = images.described()
    assert told["uint8"] == "17 levels spread over 256, rounded" and told["data"] == "digits"
    assert len(StoredImages(data.open("digits"))) == 1797
