"""`ctm-fast data`: the report, its files, and one clear line for what cannot be read."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ctm_fast import data as datasets
from ctm_fast.cli import main
from ctm_fast.cli.data import report, sheet_indices, write_sheet


def folder(root, shape=(9, 6, 3)):
    """Two classes of 3 and 2 images, one of them twice."""
    generator = np.random.default_rng(0)
    for name in ("cat/1", "cat/2", "cat/3", "dog/1", "dog/2"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).save(path)
    (root / "dog" / "2.png").write_bytes((root / "cat" / "1.png").read_bytes())
    return root


def test_report_and_files(tmp_path, capsys) -> None:
    source, out = folder(tmp_path / "pets"), tmp_path / "new" / "report"
    words = ["--data-options", "size=4", "resize=adm", "--out", str(out)]
    assert main(["data", str(source), *words]) == 0
    printed = capsys.readouterr().out
    facts = json.loads((out / "data.json").read_text())
    assert facts["source"] == str(source) and facts["options"] == ["size=4", "resize=adm"]
    assert facts["shape"] == [3, 4, 4] and facts["repeated"] == 1
    assert facts["label"]["names"] == ["cat", "dog"] and facts["label"]["counts"] == [3, 2]
    dataset = datasets.open(source, size=4, resize="adm")
    assert facts["pixels"]["sigma_data"] == pytest.approx(dataset.sigma_data)
    text = (out / "data.txt").read_text()
    assert text in printed
    for line in (
        f"{source} size=4 resize=adm",
        "folder of images",
        "5, 3 x 4 x 4",
        "2 classes of 2 to 3 images",
        "1 images",
    ):
        assert line in text
    assert f"sigma_data   {dataset.sigma_data:.6f}" in text
    with Image.open(out / "samples.png") as sheet:
        # A row per class, two images each, 4 pixels enlarged 16 times, 3 between them.
        assert sheet.size == (2 * 64 + 3, 2 * 64 + 3)


def test_nothing_is_written_without_out(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "digits", "--images", "16"]) == 0
    assert "of 16 images" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "unknown data nowhere; allowed are 'digits'"),
        (
            ["digits", "--data-options", "size=8"],
            "unknown options ['size'] for digits; allowed are ['flip']",
        ),
        (["digits", "--images", "0"], "images must be at least 1, got 0"),
    ],
)
def test_mistakes(words, message, capsys) -> None:
    assert main(["data", *words]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_a_damaged_image_is_named(tmp_path, capsys) -> None:
    source = folder(tmp_path)
    (source / "cat" / "2.png").write_bytes(b"no image")
    assert main(["data", str(source)]) == 1
    assert "2.png is not a readable png" in capsys.readouterr().err


def test_sheets_of_large_and_of_unlabelled_images(tmp_path) -> None:
    plain = datasets.ArrayDataset(np.zeros((250, 1, 5, 5), np.uint8))
    indices, columns = sheet_indices(plain)
    assert len(indices) == 100 and columns == 10 and int(indices[1]) == 2
    large = datasets.ArrayDataset(np.zeros((12, 3, 20, 700), np.uint8), np.arange(12) % 2)
    with Image.open(write_sheet(large, tmp_path / "large.png")) as sheet:
        assert sheet.size == (2 * 700 + 3, 2 * 20 + 3)
    indices, columns = sheet_indices(large)
    assert columns == 6 and torch.equal(indices[:6] % 2, torch.zeros(6, dtype=torch.int64))


def test_class_names_cannot_write_to_the_terminal() -> None:
    dataset = datasets.ArrayDataset(np.zeros((30, 1, 2, 2), np.uint8), np.arange(30))
    dataset.class_names = ("\x1b[2Jevil", *map(str, range(1, 30)))
    facts = {"source": "x", **datasets.survey(dataset)}
    text = report(facts)
    assert "\x1b" not in text and "[2Jevil" in text and "and 10 more" in text
