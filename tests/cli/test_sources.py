"""`--data` and `--data-options`: the same words for every command that reads images."""

import numpy as np
import pytest
import torch
from PIL import Image

from ctm_fast import data
from ctm_fast.cli import main
from ctm_fast.cli.sources import opened_data


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    """Two classes in "train" and in "val", 20x12 pixels, as ILSVRC lies on the disk."""
    root = tmp_path_factory.mktemp("sets") / "small"
    generator = np.random.default_rng(0)
    for name in ("train/a/1", "train/a/2", "train/b/1", "val/a/1", "val/b/1"):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (12, 20), dtype=np.uint8)).save(path)
    return root


def test_words_become_options(splits) -> None:
    found = opened_data(str(splits), ["size=8", "resize=adm", "split=val", "flip=true"])
    expected = data.open(splits, size=8, resize="adm", split="val", flip=True)
    assert len(found) == 4 and found.shape == (1, 8, 8)
    assert torch.equal(found.images(range(4)), expected.images(range(4)))
    told = {"split": "val", "size": 8, "resize": "adm", "flip": True}
    assert found.details() == told and told.items() <= found.info().items()
    assert len(opened_data("digits")) == 1797
    assert opened_data(str(splits), ["size=8", "split=null"]).details()["split"] == "train"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["8"], "--data-options: overrides are KEY=VALUE, got '8'"),
        (["size=8", "size=9"], "--data-options: size is given twice"),
        (["sizes=8"], "unknown options ['sizes']"),
        (["source=8"], "unknown options ['source']"),
        (["path=8"], "unknown options ['path']"),
        (["size=big"], "size='big'; allowed is a whole number"),
        (["size=8.5"], "size=8.5; allowed is a whole number"),
        (["size=true"], "size=True; allowed is a whole number"),
        (["size=0"], "size must be at least 1"),
        (["size=8", "resize=[[1]]"], "resize=([1],); allowed is text"),
        (["size=8", "resize=null"], "resize=None; allowed is text"),
        (["size=8", "flip=yes"], "flip='yes'; allowed are True and False"),
        (["size=8", "split=2012"], "split=2012; allowed is text"),
    ],
)
def test_mistakes_give_one_line(splits, words, message, capsys) -> None:
    assert main(["data", str(splits), "--data-options", *words]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_photos_by_name() -> None:
    found = opened_data("photo-patches", ["photos=china,flower", "size=100", "stride=50"])
    assert list(found.details()["photos"]) == ["china", "flower"]
    for words in (["photos=7"], ["photos=[[1]]"], ["photos=china,moon"]):
        with pytest.raises(ValueError, match="photos"):
            opened_data("photo-patches", words)


def test_every_command_takes_them(splits, tmp_path, capsys) -> None:
    """Training, likelihood and evaluation on files that cannot be read without options."""
    words = ["--data", str(splits), "--data-options", "size=8"]
    out = tmp_path / "run"
    quick = ["--steps", "1", "--batch-size", "4", "--no-progress-bar", "--out", str(out)]
    net = ["--net-options", "model_channels=32", "channel_mult=1,2", "num_blocks=1"]
    assert main(["train", *words, "flip=true", *quick, *net, "objective:dsm"]) == 0
    model = str(out / "model.safetensors")
    numbers = tmp_path / "bits.json"
    few = ["--num", "1", "--solver", "heun", "--steps", "1", "--elbo", "0", "--out", str(numbers)]
    assert main(["likelihood", model, *words, "split=val", *few]) == 0
    assert '"split": "val"' in numbers.read_text() and '"images": 2' in numbers.read_text()
    offline = ["evaluate", "--model", model, "--steps", "1"]
    assert main([*offline, *words]) == 1
    assert "need at least 8 real images and samples, got 3" in capsys.readouterr().err
    with_moments = [*offline, *words, "--metrics", "fid", "--reference", "a.npz"]
    assert main(with_moments) == 2
    assert "--data-options is for --data" in capsys.readouterr().err


def test_a_dry_run_shows_them(capsys) -> None:
    words = ["--preset", "ctm-imagenet64", "--data", "ILSVRC", "--data-options", "size=64"]
    assert main(["train", "--dry-run", *words, "resize=adm"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["data.size", "64", "command", "line"] in rows
    assert ["data.resize", "adm", "command", "line"] in rows
