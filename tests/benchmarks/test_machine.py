"""The machine is described by its hardware, never by its name."""

import getpass
import json
import re
import socket
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.machine import driver, facts, file_name


def test_facts_name_hardware_and_versions_only() -> None:
    about = facts("cpu")
    text = json.dumps(about)
    assert about["machine"] == about["cpu"] and "cores" in about["cpu"]
    assert about["threads"] >= 1 and isinstance(about["dirty"], bool)
    private = {socket.gethostname(), getpass.getuser(), str(Path.home())} - {"root", "/"}
    assert not [name for name in private if len(name) > 3 and name in text]


@pytest.mark.parametrize(
    ("about", "name"),
    [
        (
            {"machine": "Intel(R) Xeon(R) Gold 6338 CPU @ 2.00GHz, 8 cores", "dirty": False},
            "intel-xeon-gold-6338-cpu-2-00ghz-8-cores-2026-01-02-0123456789ab.jsonl",
        ),
        (
            {"machine": "NVIDIA H200", "dirty": True},
            "nvidia-h200-2026-01-02-0123456789ab-dirty.jsonl",
        ),
    ],
)
def test_files_are_named_after_machine_day_and_commit(about: dict, name: str) -> None:
    assert file_name({**about, "date": "2026-01-02", "commit": "0123456789ab"}) == name


def test_without_a_checkout_the_name_says_so() -> None:
    about = {"machine": "x", "date": "d", "commit": "not in a git checkout", "dirty": False}
    assert file_name(about) == "x-d-no-commit.jsonl"


def test_the_driver_is_read_where_the_system_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 2025\nGCC 12.2.0"
    monkeypatch.setattr(machine.Path, "read_text", lambda *args, **kwargs: text)
    assert driver() == "570.86.15"

    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", missing)
    monkeypatch.setattr(machine.subprocess, "run", missing)
    assert driver() is None


def test_the_file_of_this_machine_is_one_word() -> None:
    assert re.fullmatch(r"[a-z0-9-]+\.jsonl", file_name(facts("cpu")))
