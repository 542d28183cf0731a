"""Another revision of this repository, installed in a temporary folder and timed from there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import Case
from .session import State

HERE = Path(__file__).resolve().parent
BUILD_TOOLS = ("setuptools", "pybind11")


@dataclass(frozen=True)
class Tree:
    """An installed revision."""

    commit: str  # 12 digits
    site: Path  # folder with its `ctm_fast`, and with this version of `benchmarks`


def resolve(revision: str, repository: Path = HERE.parent) -> str:
    """Full name of a commit.

    Raises:
        ValueError: the repository has no such revision, or is none.
    """
    name = f"{revision}^{{commit}}"
    # --end-of-options: a revision that begins with a dash is not an option.
    command = ["rev-parse", "--verify", "--quiet", "--end-of-options", name]
    try:
        done = _git(repository, *command)
    except subprocess.CalledProcessError as error:
        raise ValueError(f"no revision {revision!r} in this repository") from error
    except OSError as error:
        raise ValueError(f"git cannot be run ({error})") from error
    return done.decode().strip()


@contextmanager
def installed(revision: str, repository: Path = HERE.parent) -> Iterator[Tree]:
    """Context with a revision, its extension built; everything is removed at the end.

    The files come from `git archive`, so neither the working tree nor the repository is touched.

    Args:
        revision: anything that `git rev-parse` understands.
        repository: its checkout.

    Raises:
        ValueError: there is no such revision.
        RuntimeError: it cannot be built.
    """
    commit = resolve(revision, repository)
    with tempfile.TemporaryDirectory(prefix="ctm_fast-base-") as folder:
        source, site = Path(folder, "source"), Path(folder, "site")
        _extract(repository, commit, source)
        print(f"building {commit[:12]} in a temporary folder", file=sys.stderr, flush=True)
        _build(source, site, commit)
        # These benchmarks, whatever its own are like.
        (site / "benchmarks").mkdir(exist_ok=True)
        for file in HERE.glob("*.py"):
            shutil.copy(file, site / "benchmarks" / file.name)
        yield Tree(commit[:12], site)


class Remote:
    """A `Session` in the process of another revision; ends with the context."""

    def __init__(self, tree: Tree, device: str = "cpu", threads: int | None = None) -> None:
        """Starts the process.

        Args:
            tree: what it imports.
            device: "cpu" or "cuda".
            threads: of torch; its default if None.

        Raises:
            RuntimeError: the process fails, or imports another `ctm_fast`.
        """
        self.tree = tree
        paths = (str(tree.site), os.environ.get("PYTHONPATH"))
        path = os.pathsep.join(filter(None, paths))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serve"],
            cwd=tree.site,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent alone, which then ends this process.
            start_new_session=True,
        )
        try:
            answer = self._ask(do="open", device=device, threads=threads)
            site = tree.site.resolve()
            for file in map(Path, answer["files"]):
                if not file.resolve().is_relative_to(site):
                    raise RuntimeError(f"{tree.commit} loads {file.name} of another installation")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(timeout=5)
        except BaseException as error:
            self._process.kill()
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise

    def prepare(self, case: Case, only: tuple[str, ...] = ()) -> list[State]:
        """Like `Session.prepare`; a case that the revision does not know is ABSENT."""
        answer = self._ask(do="prepare", case=case.to_json(), only=only)
        return [State(**state) for state in answer["states"]]

    def round(self) -> dict[str, float]:
        """See `Session.round`."""
        return self._ask(do="round")["seconds"]

    def host(self) -> dict[str, float | None]:
        """See `Session.host`."""
        return self._ask(do="host")["seconds"]

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise RuntimeError(f"the process of {self.tree.commit} ended; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _extract(repository: Path, commit: str, target: Path) -> None:
    with tempfile.TemporaryFile() as archive:
        archive.write(_git(repository, "archive", "--format=tar", commit))
        archive.seek(0)
        with tarfile.open(fileobj=archive) as files:
            # Safe paths only, where this Python can already check them.
            checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            files.extractall(target, **checked)  # type: ignore[arg-type]


def _build(source: Path, site: Path, commit: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site)]
    if all(importlib.util.find_spec(tool) for tool in BUILD_TOOLS):
        command.append("--no-build-isolation")
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    process = subprocess.Popen(
        [*command, str(source)],
        cwd=source,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate()
    except BaseException:
        _end(process)
        raise
    if process.returncode:
        raise RuntimeError(f"{commit[:12]} cannot be built:\n{text[-4000:]}")


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process that leads a session, and its children, before their files are removed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
            return


def _git(repository: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(repository), *arguments]
    return subprocess.run(command, capture_output=True, check=True).stdout
