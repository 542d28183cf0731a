"""Parses arguments and runs one command; mistakes end in one line, not in a traceback."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any

import tyro

from ..checkpoints import DamagedCheckpoint
from ..kernels import BackendError
from ..presets import preset_named
from ..solvers import SolverError
from ..trainer import Alarmed, NonFiniteLoss, OutOfMemory
from .convert import Convert
from .data import Data
from .demo import Demo
from .doctor import Doctor
from .evaluate import Evaluate
from .likelihood import Likelihood
from .sample import Sample
from .train import Train

COMMANDS: dict[str, Any] = {
    "demo": Demo,
    "train": Train,
    "sample": Sample,
    "convert": Convert,
    "data": Data,
    "evaluate": Evaluate,
    "likelihood": Likelihood,
    "doctor": Doctor,
}
_MISTAKES = (
    *(ValueError, OSError, ImportError),
    *(Alarmed, BackendError, DamagedCheckpoint, NonFiniteLoss, OutOfMemory, SolverError),
)
_FRAME = re.compile(r"[╭╮╰╯│─]+")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong arguments, 130 interrupted, 143 terminated.

    Args:
        arguments: words after `ctm-fast`; those of the process if not given.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = parsed(words)
    except _WrongArguments as error:
        return _say(f"{error}; see ctm-fast {_help(words)}", 2)
    try:
        return int(command.run())
    except KeyboardInterrupt:
        return _say("interrupted; the same command continues where it stopped", 130)
    except _MISTAKES as error:
        return _say(" ".join(str(error).split()) or type(error).__name__, 1)


def parsed(words: list[str]) -> Any:
    """Command object for the words of a command line; `--help` prints and exits."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            if words[:1] == ["train"] and (name := _preset(words)) is not None:
                default = Train.of_preset(preset_named(name))
                return tyro.cli(Train, default=default, prog="ctm-fast train", args=words[1:])
            return tyro.extras.subcommand_cli_from_dict(
                COMMANDS,
                prog="ctm-fast",
                description="Train and sample consistency trajectory models.",
                args=words or ["--help"],
                sort_subcommands=False,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise _WrongArguments(_first_sentence(told.getvalue())) from None
    except ValueError as error:
        # A dataclass that checks its own fields.
        raise _WrongArguments(_one_line(str(error))) from None


def _preset(words: list[str]) -> str | None:
    """What follows --preset."""
    for word, following in zip(words, [*words[1:], None], strict=True):
        if word.startswith("--preset="):
            return word.removeprefix("--preset=")
        if word == "--preset":
            return following
    return None


class _WrongArguments(Exception):
    """What is wrong, in one line."""


def _first_sentence(text: str) -> str:
    """The message inside tyro's box, up to its first rule, without the frame."""
    body: list[str] = []
    for line in text.splitlines()[1:]:
        words = _FRAME.sub("", line).strip()
        if not words and body:
            break
        if words:
            body.append(words)
    return _one_line(" ".join(body)) or "wrong arguments"


def _one_line(text: str) -> str:
    # tyro names its own helper class where a dataclass refused its values.
    return re.sub(r"^Error parsing __tyro\S*\.(\S+): ", r"\1: ", " ".join(text.split()))


def _help(words: list[str]) -> str:
    return f"{words[0]} --help" if words and words[0] in COMMANDS else "--help"


def _say(text: str, status: int) -> int:
    print(f"ctm-fast: {text}", file=sys.stderr)
    return status
