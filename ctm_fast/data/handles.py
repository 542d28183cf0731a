"""Open files that every process has for itself, so that data sets can be pickled and forked."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Opened = TypeVar("Opened")


class Handle(Generic[Opened]):
    """Calls `opener` once in each process, at the first use; a pickled copy opens its own.

    Args:
        opener: picklable, gives what is kept open.
    """

    def __init__(self, opener: Callable[[], Opened]) -> None:
        self._opener = opener
        self._opened: tuple[int, Opened] | None = None
        self._lock = threading.Lock()

    def __call__(self) -> Opened:
        """What `opener` gave in this process."""
        # A forked child shares the parent's file position, so it needs a handle of its own.
        opened = self._opened
        if opened is None or opened[0] != os.getpid():
            with self._lock:
                opened = self._opened
                if opened is None or opened[0] != os.getpid():
                    opened = self._opened = (os.getpid(), self._opener())
        return opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"_opener": self._opener}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Handle.__init__(self, state["_opener"])
