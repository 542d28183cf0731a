"""Row groups of parquet files: what is kept in memory, and what is refused."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ctm_fast.data import parquet_shards
from ctm_fast.data.parquet_shards import Shards, described, integers

from .image_files import encoded, pixels
from .parquet_files import hub_note, table, write


@pytest.fixture
def shards(tmp_path):
    paths = [
        write(tmp_path / "a.parquet", table(range(6)), rows=4),
        write(tmp_path / "b.parquet", table(range(6, 9)), rows=1),
    ]
    return Shards(paths, "img.bytes")


def test_images_by_file_group_and_row(shards):
    assert shards.rows == [[4, 2], [1, 1, 1]]
    assert shards.image(0, 1, 1) == encoded(pixels(5))
    assert shards.image(1, 2, 0) == encoded(pixels(8))


def test_row_groups_are_read_once_and_dropped_in_turn(shards, monkeypatch):
    read = []
    original = Shards._read
    monkeypatch.setattr(Shards, "_read", lambda s, f, g: read.append((f, g)) or original(s, f, g))
    for _ in range(3):
        shards.image(0, 0, 1)
        shards.image(0, 1, 0)
    assert read == [(0, 0), (0, 1)]
    monkeypatch.setattr(parquet_shards, "KEPT_BYTES", 1)
    shards.image(1, 0, 0)
    shards.image(0, 0, 0)
    assert read[2:] == [(1, 0), (0, 0)]
    assert list(shards._kept) == [(0, 0)]
    assert shards._kept_bytes == sum(len(encoded(pixels(seed))) for seed in range(4))


def test_described(tmp_path):
    path = write(tmp_path / "a.parquet", table(range(2), fine=[1, 2], text=["a", "b"]))
    found = described(path)
    assert found.images == {"img": "img.bytes"} and found.integers == ("label", "fine")
    assert found.all == ("img", "label", "fine", "text")
    assert found.class_names["label"][:2] == ("airplane", "automobile")
    assert found.image(None, ("img", "image")) == "img.bytes"
    assert found.label(None, ("label",)) == "label" and found.label(None, ("cls",)) is None


@pytest.mark.parametrize(
    "note",
    [
        {b"huggingface": b"[" * 100_000},
        {b"huggingface": b"{"},
        {b"huggingface": b'{"info": []}'},
        {b"huggingface": b'{"info": {"features": {"label": 3}}}'},
        {b"huggingface": b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}'},
        hub_note(label=[1, 2]),
        {},
    ],
)
def test_notes_that_say_nothing(tmp_path, note):
    made = table(range(2)).replace_schema_metadata(note)
    assert described(write(tmp_path / "a.parquet", made)).class_names == {}


def test_a_page_that_stands_for_gigabytes(tmp_path, monkeypatch):
    # One image in a dictionary page, many rows that point to it.
    monkeypatch.setattr(parquet_shards, "MAX_GROUP_BYTES", 1_000_000)
    big = {"bytes": bytes(200_000), "path": None}
    path = write(tmp_path / "a.parquet", table(range(100), img=[big] * 100), rows=100)
    assert path.stat().st_size < 250_000
    with pytest.raises(ValueError, match=r"a.parquet.*row group 0 unpacks to more than 1000000"):
        Shards([path], "img.bytes").image(0, 0, 0)


def test_nulls_and_large_images(tmp_path, monkeypatch):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    good = {"bytes": b"1", "path": None}
    for row, bad in ((1, None), (1, {"bytes": None, "path": "x"})):
        made = table(range(2), img=pa.array([good, bad], kind))
        with pytest.raises(ValueError, match=f"row group 0 has no bytes in row {row}"):
            Shards([write(tmp_path / "a.parquet", made)], "img.bytes").image(0, 0, 0)
    monkeypatch.setattr(parquet_shards, "MAX_MEMBER_BYTES", 10)
    with pytest.raises(ValueError, match=r"an image of \d+ bytes, allowed are 10"):
        Shards([write(tmp_path / "a.parquet", table(range(2)))], "img.bytes").image(0, 0, 0)


def test_shards_with_other_columns(tmp_path):
    paths = [
        write(tmp_path / "a.parquet", table(range(2))),
        write(tmp_path / "b.parquet", table(range(2), "image")),
    ]
    with pytest.raises(ValueError, match=r"b.parquet.*there is no column 'img.bytes'"):
        Shards(paths, "img.bytes")
    with pytest.raises(ValueError, match=r"b.parquet"):
        integers(paths[1], "cls")


def test_every_truncation_is_refused(tmp_path):
    path = write(tmp_path / "a.parquet", table(range(3)))
    content = path.read_bytes()
    for length in [*range(0, len(content), 41), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a.parquet"):
            described(path)
