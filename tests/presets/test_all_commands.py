"""The training commands of the document parse, and name what there is."""

import re
from pathlib import Path

import pytest

from ctm_fast.cli.main import parsed
from ctm_fast.presets import PRESETS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
BLOCKS = "".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL))
COMMANDS = re.findall(r"(?:ctm-fast|-m ctm_fast) (train .*)", BLOCKS)


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command: str) -> None:
    found = parsed(command.split())
    preset = PRESETS[found.preset]
    if not found.dry_run:
        assert found.data is not None
        assert (found.teacher is not None) == ("teacher" in preset.objective().needs)
        assert (found.student is not None) == (preset.start == "student")
    assert found.train.lr == preset.train().lr


def test_every_published_preset_of_this_table_exists() -> None:
    table = re.findall(r"`((?:ctm|edm)-[a-z0-9-]+)`", TEXT)
    named = {name for name in table if name in PRESETS}
    assert set(table) == named
    full = {name for name in PRESETS if name.startswith(("ctm-", "edm-")) and "digits" not in name}
    assert full == named
