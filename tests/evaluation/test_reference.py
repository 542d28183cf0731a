"""Statistics files of EDM, of ADM and of this library, and what is wrong with some."""

import json

import numpy as np
import pytest
import torch

from ctm_fast.evaluation import Moments, Reference, read_reference, write_reference
from ctm_fast.evaluation.reference import CARD
from tests.evaluation.small import correlated


def moments(width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    found = Moments(width)
    found.add(correlated(30, width))
    return found.mean.numpy(), found.covariance.numpy()


MU, SIGMA = moments()
IMAGES = np.zeros((5, 8, 8, 3), np.uint8)


def saved(tmp_path, **arrays):
    np.savez(tmp_path / "stats.npz", **arrays)
    return tmp_path / "stats.npz"


def test_edm(tmp_path) -> None:
    found = read_reference(saved(tmp_path, mu=MU, sigma=SIGMA))
    assert np.array_equal(found.mean, MU) and np.array_equal(found.covariance, SIGMA)
    assert found.features is None and found.pixels is None
    card = found.card
    assert (card["file"], card["format"]) == ("stats.npz", "edm") and len(card["file_sha256"]) == 64
    assert card["extractor"] == "not stated in the file"


def test_adm(tmp_path) -> None:
    other = dict(mu_s=np.zeros(9), sigma_s=np.eye(9))
    found = read_reference(saved(tmp_path, mu=MU, sigma=SIGMA, arr_0=IMAGES, **other))
    assert np.array_equal(found.mean, MU) and found.pixels.shape == (5, 8, 8, 3)
    assert found.card["format"] == "adm" and found.card["stored_images"] == 5
    # A batch of images alone, as their evaluator also takes it.
    found = read_reference(saved(tmp_path, arr_0=IMAGES, arr_1=np.zeros(5, np.int64)))
    assert found.mean is None and len(found.pixels) == 5


def test_float32_statistics_become_float64(tmp_path) -> None:
    found = read_reference(saved(tmp_path, mu=MU.astype("f4"), sigma=SIGMA.astype("f4")))
    assert found.mean.dtype == found.covariance.dtype == torch.float64


@pytest.mark.parametrize("features", [None, correlated(30, 4).float()])
def test_own_files(tmp_path, features) -> None:
    card = {"extractor": {"name": "small", "sha256": "ab", "resize": "none"}, "samples": 30}
    made = Reference(torch.tensor(MU), torch.tensor(SIGMA), features, None, card)
    path = write_reference(tmp_path / "own.npz", made)
    found = read_reference(path)
    assert torch.equal(found.mean, made.mean) and torch.equal(found.covariance, made.covariance)
    if features is None:
        assert found.features is None
    else:
        assert torch.equal(found.features, features) and found.features.dtype == torch.float32
    assert found.card["format"] == "ctm_fast" and found.card["samples"] == 30
    # What EDM's code reads of it.
    with np.load(path) as plain:
        assert np.array_equal(plain["mu"], MU) and np.array_equal(plain["sigma"], SIGMA)
        assert json.loads(str(plain[CARD])) == card
    described = {"name": "small", "sha256": "ab", "resize": "none"}
    found.check_extractor(described, 4)
    with pytest.raises(ValueError, match=r"mu of width 4; the extractor 'small' gives 5"):
        found.check_extractor(described, 5)
    for key in ("sha256", "resize"):
        with pytest.raises(ValueError, match=f"made with an extractor of {key}"):
            found.check_extractor({**described, key: "cd"}, 4)


def test_statistics_that_tell_nothing_fit_by_width(tmp_path) -> None:
    found = read_reference(saved(tmp_path, mu=MU, sigma=SIGMA))
    found.check_extractor({"name": "any", "sha256": None, "resize": "none"}, 4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(x=MU), r"holds \['x'\]; a reference holds mu and sigma"),
        (dict(mu=MU), "only one of mu and sigma"),
        (dict(sigma=SIGMA), "holds"),
        (dict(mu=MU[:3], sigma=SIGMA), r"mu \(3,\) and sigma \(4, 4\)"),
        (dict(mu=MU * np.nan, sigma=SIGMA), "not finite"),
        (dict(mu=MU, sigma=np.triu(SIGMA)), "not symmetric"),
        (dict(mu=MU, sigma=-SIGMA), "negative variance"),
        (dict(mu=MU.astype(int), sigma=SIGMA), "dtype int64 where real numbers belong"),
        (dict(mu=MU.astype(object), sigma=SIGMA), "dtype object"),
        (dict(arr_0=np.zeros((5, 8, 8, 3))), r"images \(5, 8, 8, 3\) float64"),
        (dict(mu=MU, sigma=SIGMA, features=np.ones(4)), r"features \(4,\); need \(N, D\)"),
        ({"mu": MU, "sigma": SIGMA, CARD: np.array("{")}, "its card is not JSON"),
        ({"mu": MU, "sigma": SIGMA, CARD: np.array("[1]")}, "not a JSON object"),
    ],
)
def test_what_is_wrong(arrays, message, tmp_path) -> None:
    with pytest.raises(ValueError, match=message):
        read_reference(saved(tmp_path, **arrays))


def test_missing_parts(tmp_path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        read_reference(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="neither mu and sigma"):
        Reference()
    with pytest.raises(ValueError, match="needs mean and covariance"):
        write_reference(tmp_path / "a.npz", Reference(features=torch.ones(3, 2)))
