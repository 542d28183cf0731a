"""SIGTERM and SIGINT as a wish to stop after the current step."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any


class Signals:
    """Inside `with`, the first SIGTERM or SIGINT only sets `asked`.

    A second SIGTERM changes nothing; a second SIGINT interrupts at once, which costs the work
    since the last checkpoint but damages nothing. Outside the main thread, where Python does not
    allow handlers, signals keep their usual meaning.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.asked is None:
            self.asked = number
            name = signal.Signals(number).name
            print(f"\n{name}: stopping after this step, then saving", file=sys.stderr, flush=True)

    def leave(self) -> None:
        """End the program the way the signal asks for, once everything is saved.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: with status 143 after SIGTERM, or when another process was asked to stop.
        """
        if self.asked == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)
