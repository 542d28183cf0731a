"""The process that times another revision: `python -m benchmarks.serve`, one JSON line each way."""

import json
import os
import sys
from contextlib import suppress


def forget_editable_installation() -> None:
    """Stops an editable `ctm_fast` from filling in what the revision in this folder lacks.

    Its finder offers `ctm_fast._native` to any package of that name.
    """
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable___ctm_fast")
    ]


def main() -> None:
    """Answers the lines of stdin until it ends."""
    forget_editable_installation()
    from .server import Server

    # Answers get the real stdout for themselves; what libraries print goes to stderr.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1, encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    server = Server()
    # The one who asks may be gone, after Ctrl-C.
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            answers.write(json.dumps(server.answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
