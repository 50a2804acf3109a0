"""Ctrl-C and SIGTERM during `fit`: noted at once, acted upon between two chunks."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """While it is open, the first SIGINT or SIGTERM is only noted, so that the loop can finish its chunk and save.

    A second signal acts at once, as if nobody had been listening. Outside the main thread, where Python allows no
    signal handlers, nothing is noted.

    Attributes:
      received: The signal that came, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()

    def act(self) -> None:
        """Leaves the program the way the noted signal asked for; returns where none came.

        Raises:
          KeyboardInterrupt: After SIGINT.
          SystemExit: After SIGTERM, with status 143.
        """
        if self.received is signal.SIGINT:
            raise KeyboardInterrupt
        if self.received is signal.SIGTERM:
            sys.exit(128 + signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = signal.Signals(number)
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            if handler is not None:  # None: whoever had installed it was not Python, and cannot be given back
                signal.signal(number, handler)
        self._before = {}
