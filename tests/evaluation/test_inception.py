"""Inception's weights: refused with what to fetch, checked before they are read, read safely."""

import io
import pickle
import sys
import types

import pytest
import torch

from ctm_fast.evaluation.inception import FILES, PLACES, inception
from ctm_fast.evaluation.weights import file_sha256


class Small(torch.nn.Module):
    """Has the constructor and the answer of torch-fidelity's class, which needs torchvision."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048", "logits_unbiased"]
        assert feature_extractor_weights_path is not None, "it would download"
        self.linear = torch.nn.Linear(3, 4)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=False))

    def forward(self, images):
        assert images.dtype == torch.uint8
        features = self.linear(images.float().mean((2, 3)))
        return features, features[:, :2]


@pytest.fixture
def torch_fidelity(monkeypatch):
    """A stand-in for the package."""
    package = types.ModuleType("torch_fidelity")
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Small
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torch.nn.Linear(3, 4).state_dict(), path)
    state = {f"linear.{k}": v for k, v in torch.load(path, weights_only=True).items()}
    torch.save(state, path)
    return path


def test_says_what_to_fetch_from_where(tmp_path) -> None:
    for path in (None, tmp_path / "absent.pth"):
        with pytest.raises(ValueError) as caught:
            inception(path)
        said = str(caught.value)
        assert "pt_inception-2015-12-05-6726825d.pth" in said and "6726825d..." in said
        assert all(place in said for place in PLACES) and all(name in said for name in FILES)
        assert "--weights" in said and "not downloaded" in said


def test_features_and_logits(torch_fidelity, weights) -> None:
    made = inception(weights, file_sha256(weights))
    features, logits = made(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    state = torch.load(weights, weights_only=True)
    torch.testing.assert_close(features, state["linear.bias"].expand(2, 4))
    assert logits.shape == (2, 2)
    assert made.described() == {
        "name": "inception-v3-2015-12-05",
        "sha256": file_sha256(weights),
        "resize": "bilinear to 299 as TensorFlow 1, inside",
    }


def test_another_file_is_not_read(torch_fidelity, weights) -> None:
    with pytest.raises(ValueError, match="not 6726825d: it is another file"):
        inception(weights)


class Hostile:
    def __reduce__(self):
        return (print, ("code ran",))


def test_a_pickle_with_code_is_not_run(torch_fidelity, tmp_path, capsys) -> None:
    path = tmp_path / "hostile.pth"
    torch.save({"linear.weight": Hostile()}, path)
    with pytest.raises(ValueError, match="is no file of weights"):
        inception(path, file_sha256(path))
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(ValueError, match="is no file of weights"):
        inception(path, file_sha256(path))
    assert "code ran" not in capsys.readouterr().out


def test_other_weights_are_refused(torch_fidelity, tmp_path) -> None:
    path = tmp_path / "other.pth"
    for content, message in (({"x": torch.ones(1)}, "not the weights"), ([1], "no state dict")):
        file = io.BytesIO()
        torch.save(content, file)
        path.write_bytes(file.getvalue())
        with pytest.raises(ValueError, match=message):
            inception(path, file_sha256(path))


def test_absent_package(weights, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"ctm_fast\[eval\]"):
        inception(weights, file_sha256(weights))
