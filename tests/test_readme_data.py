"""docs/data.md: its lines run, its options exist, its limits are those of the code."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import pytest

from ctm_fast import data
from ctm_fast.cli.data import Data
from ctm_fast.cli.likelihood import Likelihood
from ctm_fast.cli.main import parsed
from ctm_fast.cli.overrides import parsed_overrides
from ctm_fast.cli.train import Train
from ctm_fast.data import archive, decode, npz, parquet, parquet_shards, resize, tarball

DOCS = Path(__file__).resolve().parents[1].joinpath("docs", "data.md").read_text(encoding="utf-8")


def test_python() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS, re.S)
    found: dict[str, object] = {}
    exec(code, found)
    assert found["images"].shape == (3, 1, 8, 8)  # type: ignore[attr-defined]


def test_commands() -> None:
    (lines,) = re.findall(r"```bash\n(.*?)```", DOCS, re.S)
    commands = [parsed(shlex.split(line, comments=True)[1:]) for line in lines.splitlines()]
    assert [type(command) for command in commands] == [Data, Data, Data, Train, Likelihood]
    options = [parsed_overrides(command.data_options) for command in commands]
    adm = {"size": 64, "resize": "adm"}
    assert options == [{}, {}, adm, {**adm, "flip": True}, {"split": "test"}]


@pytest.mark.parametrize("line", re.findall(r"`(data\.open\(.*?\))`", DOCS))
def test_options_exist(line: str) -> None:
    call = ast.parse(line, mode="eval").body
    assert isinstance(call, ast.Call) and isinstance(call.args[0], ast.Constant)
    source = call.args[0].value
    kinds = [k for ending, k in data.opening.FILES.items() if source.endswith(ending)]
    kinds = kinds or [data.ImageFolder, data.Parquet]
    options = {keyword.arg for keyword in call.keywords}
    assert any(options <= set(inspect.signature(kind).parameters) for kind in kinds)


def test_limits() -> None:
    assert decode.MAX_PIXELS == resize.MAX_RESIZED == 2**26
    assert (archive.MAX_MEMBERS, archive.MAX_DIRECTORY_BYTES) == (5_000_000, 2**30)
    assert (archive.MAX_TOTAL_BYTES, archive.MAX_MEMBER_BYTES) == (2**42, 2**26)
    assert (archive.MAX_RATIO, archive.MAX_DEPTH, archive.MAX_NAME) == (200, 16, 1024)
    assert (npz.MAX_MEMORY, npz.CHECKSUM_UP_TO) == (2**32, 2**32)
    assert (tarball.MAX_UNPACKED, tarball.MAX_MEMBERS) == (2**29, 10_000)
    assert (parquet.MAX_SHARDS, parquet.MAX_ROWS) == (10_000, 2**27)
    assert (parquet_shards.MAX_GROUP_BYTES, parquet_shards.KEPT_BYTES) == (2**30, 2**28)
    for number in ("2^26", "5,000,000", "2^30", "2^42", "200 to 1", "1024", "2^32", "2^29", "2^27"):
        assert number in DOCS
