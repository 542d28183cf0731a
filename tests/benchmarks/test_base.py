"""Another revision is installed beside this one, timed in turns, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from benchmarks import bench_kernels
from benchmarks.base import Remote, Tree, installed, resolve
from benchmarks.bench_kernels import Settings, measure
from benchmarks.cases import Case
from benchmarks.session import ABSENT, READY

ROOT = Path(__file__).resolve().parents[2]
IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c"}
IDENTITY |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in IDENTITY.items()}


def git(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose one commit holds the kernels of this one, without C++."""
    folder = tmp_path_factory.mktemp("repository")
    nothing = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "kernels", folder / "ctm_fast" / "kernels", ignore=nothing)
    shutil.copy(ROOT / "ctm_fast" / "__init__.py", folder / "ctm_fast")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "ctm_fast"\nversion = "0"\n'
        '[tool.setuptools]\npackages = ["ctm_fast", "ctm_fast.kernels"]\n'
    )
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    (folder / "untracked").write_text("")
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_unknown_revisions_are_named(repository: Path, tmp_path: Path) -> None:
    assert resolve("HEAD", repository) == git(repository, "rev-parse", "HEAD")
    for name in ("nothing", "--version", "HEAD:pyproject.toml"):
        with pytest.raises(ValueError, match=f"no revision '{name}'"):
            resolve(name, repository)
    with pytest.raises(ValueError, match="no revision 'HEAD'"):
        resolve("HEAD", tmp_path)


def test_a_revision_is_timed_in_turns_and_removed(
    repository: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, tiny: None
) -> None:
    before = git(repository, "status", "--porcelain"), git(repository, "worktree", "list")
    # The environment of a run from a checkout: this version comes first unless it is overruled.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with installed("HEAD", repository) as tree, Remote(tree, threads=1) as remote:
        assert tree.commit == git(repository, "rev-parse", "HEAD")[:12]
        assert [f.name for f in temporary.iterdir()] == [tree.site.parent.name]

        case = Case("jump", {"shape": (2, 3, 4, 4)}, gradient=True)
        (state,) = remote.prepare(case)
        assert (state.name, state.status, state.auto) == ("torch", READY, True)
        assert remote.round()["torch"] > 0 and remote.host() == {"torch": None}

        (state,) = remote.prepare(Case("jump", {"shapes": (2, 3)}))
        assert state.status == ABSENT and "does not know this case" in state.note
        assert remote.round() == {}

        monkeypatch.setattr(bench_kernels, "installed", lambda revision: nullcontext(tree))
        (batch,) = measure(Settings(op="jump", rounds=2, gradients=False, base="HEAD"))
        names = {record.variant: record for record in batch}
        other = names["base:torch"]
        assert (other.kind, other.base, other.ratio_to_base) == ("base", tree.commit, None)
        assert other.median > 0 and other.ratio > 0
        assert names["torch"].ratio_to_base > 0 and names["torch"].base is None
    assert list(temporary.iterdir()) == []
    assert before == (git(repository, "status", "--porcelain"), git(repository, "worktree", "list"))


SLOW_BUILD = """
import os, pathlib, time
pathlib.Path(os.environ["STARTED"]).write_text(str(os.getpid()))
time.sleep(60)
"""
BROKEN_BUILD = "raise SystemExit('no such luck')"


def commit(folder: Path, setup: str) -> Path:
    """A repository with this `setup.py`."""
    folder.mkdir()
    (folder / "setup.py").write_text(setup)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    return folder


def test_an_interrupted_build_is_ended_and_removed(
    tmp_path_factory: pytest.TempPathFactory, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("slow")
    started = folder / "started"
    monkeypatch.setenv("STARTED", str(started))

    def interrupt() -> None:
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    # Where tests run in the background, SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        thread = threading.Thread(target=interrupt, daemon=True)
        repository = commit(folder / "repository", SLOW_BUILD)
        with pytest.raises(KeyboardInterrupt):
            thread.start()
            with installed("HEAD", repository):
                pytest.fail("the build was interrupted")
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(temporary.iterdir()) == []
    # Killed, but a busy machine may take a moment to take it away.
    deadline = time.monotonic() + 20
    while _runs(int(started.read_text())):
        assert time.monotonic() < deadline, "the build goes on"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        state = (Path("/proc") / str(process) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A dead process may wait for whoever adopted it.
    return state.rsplit(")", 1)[1].split()[0] not in "ZX"


def test_a_process_that_ended_is_an_error(repository: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    with pytest.raises(RuntimeError, match="the process of 0123 ended"):
        # Nothing is installed there, so that the module to be run is missing.
        Remote(Tree("0123", site))


def test_a_revision_that_does_not_build_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, temporary: Path
) -> None:
    folder = commit(tmp_path_factory.mktemp("broken") / "repository", BROKEN_BUILD)
    with pytest.raises(RuntimeError, match="no such luck"), installed("HEAD", folder):
        pytest.fail("it was built")
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_last_commit_is_built_and_timed(temporary: Path, tiny: None) -> None:
    (batch,) = measure(Settings(op="jump", rounds=1, gradients=False, base="HEAD"))
    assert any(r.kind == "base" and r.status == READY for r in batch), batch
    assert list(temporary.iterdir()) == []
