"""Folders: classes by sub-folder, flat, EDM's label file, and clear errors."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch

from ctm_fast import data

from .image_files import chw, encoded, pixels


def write(root, name, array, kind="png"):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, kind))


def test_a_class_per_sub_folder(tmp_path):
    names = ["b/2.png", "b/1.png", "a/x.bmp", "c/deep/9.PNG"]
    for seed, name in enumerate(names):
        write(tmp_path, name, pixels(seed), "bmp" if name.endswith("bmp") else "png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / ".hidden.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    folder = data.open(tmp_path)
    assert len(folder) == 4 and folder.num_classes == 3 and folder.class_names == ("a", "b", "c")
    assert folder.labels(range(4)).tolist() == [0, 1, 1, 2]
    expected = np.stack([chw(pixels(seed)) for seed in (2, 1, 0, 3)])
    assert np.array_equal(folder.pixels(torch.arange(4)).numpy(), expected)
    assert folder.name == tmp_path.name and folder.info()["class_names"] == ["a", "b", "c"]


def test_flat(tmp_path):
    for seed in range(3):
        write(tmp_path, f"{seed}.png", pixels(seed, 4, 5, 1))
    folder = data.open(str(tmp_path), flip=True)
    assert len(folder) == 6 and folder.shape == (1, 4, 5)
    assert folder.num_classes == 0 and folder.labels([0, 5]) is None
    assert folder.images([0, 3]).shape == (2, 1, 4, 5)
    stack = np.stack([pixels(seed, 4, 5, 1) for seed in range(3)]) / 127.5 - 1
    assert folder.sigma_data == pytest.approx(stack.std())


def test_edm_folder_takes_labels_from_the_file(tmp_path):
    for seed in range(4):
        write(tmp_path, f"0000{seed % 2}/img{seed}.png", pixels(seed))
    labels = [[f"0000{seed % 2}/img{seed}.png", 9 - seed] for seed in range(4)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels}))
    folder = data.open(tmp_path)
    assert folder.labels(range(4)).tolist() == [9, 7, 8, 6] and folder.num_classes == 10


def test_mixed_grey_and_colour_is_a_colour_set(tmp_path):
    write(tmp_path, "a.png", pixels(0, channels=1))
    write(tmp_path, "b.png", pixels(1))
    folder = data.open(tmp_path)
    assert folder.shape == (3, 6, 6) and folder.images([0, 1]).shape == (2, 3, 6, 6)


def test_sizes_only_change_when_asked(tmp_path):
    write(tmp_path, "a.png", pixels(0, 6, 9))
    write(tmp_path, "b.png", pixels(1, 8, 5))
    with pytest.raises(ValueError, match=r"a.png 9x6 and b.png 5x8; pass size="):
        data.open(tmp_path)
    folder = data.open(tmp_path, size=4)
    assert folder.shape == (3, 4, 4) and folder.images([0, 1]).shape == (2, 3, 4, 4)


def test_survives_pickling(tmp_path):
    write(tmp_path, "a.png", pixels(0))
    folder = data.open(tmp_path)
    assert torch.equal(pickle.loads(pickle.dumps(folder)).images([0]), folder.images([0]))


def test_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match="has no png, jpg, webp or bmp image"):
        data.open(tmp_path)
    write(tmp_path, "a.png", pixels(0))
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"b.png is not a readable"):
        data.open(tmp_path)
    (tmp_path / "b.png").unlink()
    write(tmp_path, "class/b.png", pixels(0))
    with pytest.raises(ValueError, match=r"both in sub-folders \('class'\) and beside them \('a"):
        data.open(tmp_path)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        data.open(tmp_path, size=0)
    with pytest.raises(ValueError, match="is not a folder"):
        data.ImageFolder(tmp_path / "a.png")


def ilsvrc(root):
    for seed, name in enumerate(["n02/b.JPEG", "n01/a.JPEG", "n01/c.JPEG"]):
        write(root, f"train/{name}", pixels(seed, 20 + seed, 30), "jpeg")
    write(root, "val/n01/d.JPEG", pixels(3, 40, 20), "jpeg")
    return root


def test_the_layout_of_ilsvrc(tmp_path):
    train = data.open(ilsvrc(tmp_path), size=8, resize="adm")
    assert len(train) == 3 and train.class_names == ("n01", "n02") and train.shape == (3, 8, 8)
    assert train.labels(range(3)).tolist() == [0, 0, 1]
    assert train.info()["split"] == "train" and train.name == f"{tmp_path.name}-train"
    direct = data.open(tmp_path / "train", size=8, resize="adm")
    assert torch.equal(direct.images(range(3)), train.images(range(3)))
    assert "split" not in direct.info()
    val = data.open(tmp_path, split="val", size=8)
    assert len(val) == 1 and val.class_names == ("n01",)
    with pytest.raises(ValueError, match=r"no split 'test'; its sub-folders are \['train', 'val'"):
        data.open(tmp_path, split="test")


def test_classes_called_like_splits_stay_classes(tmp_path):
    for name in ("train/a.png", "test/b.png"):
        write(tmp_path / "direct", name, pixels(0))
    assert data.open(tmp_path / "direct").class_names == ("test", "train")
    for name in ("train/x/a.png", "car/x/b.png"):
        write(tmp_path / "vehicles", name, pixels(0))
    assert data.open(tmp_path / "vehicles").class_names == ("car", "train")


def test_links_to_classes_are_followed_and_end(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png"):
        write(tmp_path / "whole", name, pixels(0))
    write(tmp_path / "subset", "ant/1.png", pixels(1))
    (tmp_path / "subset" / "cat").symlink_to(tmp_path / "whole" / "cat")
    (tmp_path / "subset" / "loop").symlink_to(tmp_path / "subset")
    found = data.open(tmp_path / "subset")
    assert found.class_names == ("ant", "cat") and found.labels(range(3)).tolist() == [0, 1, 1]
    # Two folders with links to each other.
    write(tmp_path / "a", "x/1.png", pixels(0))
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    assert len(data.open(tmp_path / "a")) == 1


def test_the_adm_rule_is_applied_to_rgb(tmp_path):
    from PIL import Image

    from ctm_fast.data.resize import adm

    array = pixels(0, 21, 33)
    write(tmp_path, "a.png", array)
    write(tmp_path, "b.png", array[..., 0])
    folder = data.open(tmp_path, size=8, resize="adm")
    expected = np.asarray(adm(Image.fromarray(array), 8))
    assert np.array_equal(folder.pixels(torch.tensor([0]))[0].numpy(), chw(expected))
    assert not torch.equal(folder.images([0]), data.open(tmp_path, size=8).images([0]))
    with pytest.raises(ValueError, match="resize='adm' needs size="):
        data.open(tmp_path, resize="adm")
    with pytest.raises(ValueError, match="unknown resize 'lanczos'"):
        data.open(tmp_path, size=8, resize="lanczos")


def test_a_thin_picture_is_refused_by_name(tmp_path):
    write(tmp_path, "thin.png", np.zeros((1, 2**16), np.uint8))
    with pytest.raises(ValueError, match=r"thin.png is refused: 65536x1 pixels become 4194304x64"):
        data.open(tmp_path, size=64, resize="adm").images([0])
