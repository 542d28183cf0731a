"""Extractors that come as files: exported programs and TorchScript, never without a SHA-256."""

import warnings

import pytest
import torch

from ctm_fast.evaluation import Extractor, extractor_from_file
from ctm_fast.evaluation.weights import file_sha256
from tests.evaluation.small import Features, ScriptedFeatures

IMAGES = torch.arange(3 * 192, dtype=torch.int64).remainder(251).byte().reshape(3, 3, 8, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`Features` as a .pt2 file."""
    path = tmp_path_factory.mktemp("extractors") / "small.pt2"
    program = torch.export.export(
        Features(), (IMAGES,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}}
    )
    torch.export.save(program, path)
    return path


@pytest.mark.parametrize("number", [1, 3])
def test_an_exported_program(exported, number) -> None:
    made = extractor_from_file(exported, file_sha256(exported))
    features, logits = made(IMAGES[:number])
    expected = Extractor(Features(), "small")(IMAGES[:number])
    torch.testing.assert_close(features, expected[0])
    torch.testing.assert_close(logits, expected[1])
    assert made.described() == {
        "name": "small.pt2",
        "sha256": file_sha256(exported),
        "resize": "as in the file",
    }


def test_torchscript_that_gives_features_on_request(tmp_path) -> None:
    network, path = ScriptedFeatures().eval(), tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, published files remain
        torch.jit.script(network).save(str(path))
    features, logits = extractor_from_file(path, file_sha256(path))(IMAGES)
    torch.testing.assert_close(features, network(IMAGES, return_features=True))
    assert logits is None


def test_a_program_is_not_run_without_its_sha256(exported) -> None:
    with pytest.raises(ValueError, match=f"is a program.*{file_sha256(exported)}"):
        extractor_from_file(exported, None)
    with pytest.raises(ValueError, match="it was not read"):
        extractor_from_file(exported, "0" * 64)


def test_other_files_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"allowed are 'inception' and files ending in .pt2 or"):
        extractor_from_file("resnet50", "0" * 64)
    with pytest.raises(ValueError, match="does not exist"):
        extractor_from_file(tmp_path / "absent.pt", "0" * 64)
    for name in ("text.pt", "text.pt2"):
        (tmp_path / name).write_text("text")
        with pytest.raises(ValueError, match="cannot be read"):
            extractor_from_file(tmp_path / name, file_sha256(tmp_path / name))
