"""The facts a report names, and what it must not name."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch

import ctm_fast
from ctm_fast.evaluation import environment as facts_of_this_run
from ctm_fast.evaluation.environment import commit


def test_facts():
    facts = facts_of_this_run()
    assert facts["torch"] == torch.__version__ and facts["ctm_fast"] == ctm_fast.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["native parts"] and facts["processor"] and facts["commit"]
    assert all(isinstance(value, str) for value in facts.values())


def test_neither_host_nor_folder_is_named():
    text = " ".join(facts_of_this_run().values())
    assert str(Path.home()) not in text and str(Path(ctm_fast.__file__).parent) not in text
    assert not platform.node() or platform.node() not in text.split()


def test_commit_is_none_when_git_fails(monkeypatch):
    def fail(*arguments, **options):
        raise subprocess.CalledProcessError(128, "git")

    monkeypatch.setattr(subprocess, "run", fail)
    assert commit() is None


def test_code_is_what_changes(tmp_path):
    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    assert commit(tmp_path) is None
    git("init")
    files = [tmp_path / name for name in ("a.py", "docs/a.md", "benchmarks/results/a.jsonl")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one")
    git("add", "-A")
    git("commit", "-m", "first")
    clean = commit(tmp_path)
    assert len(clean) == 12
    for file in files[1:]:
        file.write_text("two")
    assert commit(tmp_path) == clean
    files[0].write_text("two")
    assert commit(tmp_path) == f"{clean} + changes"
