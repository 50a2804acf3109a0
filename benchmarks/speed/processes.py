"""The driver's side of the pipe: processes of peers."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import pty
import subprocess
import sys
import termios
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed import rounds
from benchmarks.speed.peers import Task
from benchmarks.speed.turns import GO

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE = 900.0  # seconds for one turn; the first one traces, and XLA compiles
_LINES, _COLUMNS = 40, 120
_KEPT = 200  # pieces of output, for the message where a process fails


class Process:
    """A process in a terminal of its own, as somebody has who watches a run: progress bars draw there.

    Args:
      task: What it does; None for a process that forks one for each task that it is given.

    Attributes:
      answers: What it had to say of each turn.
    """

    def __init__(self, task: Task | None):
        self._name = "the process that forks" if task is None else f"{task.kind.title}, {task.workload.title}"
        self._channel, theirs = multiprocessing.Pipe()
        self._terminal, theirs_too = pty.openpty()
        termios.tcsetwinsize(self._terminal, (_LINES, _COLUMNS))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.speed.child", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=theirs_too,
            stderr=theirs_too,
            pass_fds=[theirs.fileno()],
            cwd=ROOT,
            env=_environment(),
        )
        theirs.close()
        os.close(theirs_too)
        self._output: collections.deque[bytes] = collections.deque(maxlen=_KEPT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._channel.send(task)
        self.answers: list[dict[str, Any]] = []

    def begin(self) -> None:
        """Begins a turn, and does not wait for its end."""
        self._channel.send(GO)

    def end(self) -> dict[str, Any]:
        """Waits for the end of a turn, and returns what the peer has to say of it: its `seconds`, and more.

        Raises:
          RuntimeError: If the process has failed, or has not answered in time.
        """
        try:
            if self._channel.poll(DEADLINE):
                self.answers.append(self._channel.recv())
                return self.answers[-1]
            why = f"has not answered for {DEADLINE:.0f} seconds"
        except (EOFError, ConnectionError):
            self._process.wait(DEADLINE)
            self._reader.join(DEADLINE)
            why = "has failed"
        printed = b"".join(self._output).decode(errors="replace")
        raise RuntimeError(f"{self._name}: {why}; it has printed last:\n{printed}")

    def first_turn(self, task: Task) -> dict[str, Any]:
        """Has a process forked for the first turn of a task, and returns what it has to say of it."""
        self._channel.send(task)
        return self.end()

    def turn(self) -> float:
        """Returns the seconds of one turn."""
        self.begin()
        return self.end()["seconds"]

    def close(self) -> None:
        """Ends the process, by its id, whatever it is doing."""
        self._channel.close()
        self._process.kill()
        self._process.wait()
        self._reader.join()
        os.close(self._terminal)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # which says that the other end of a terminal is closed
            while piece := os.read(self._terminal, 4096):
                self._output.append(piece)


def _environment() -> dict[str, str]:
    """Returns what a process finds in its environment; it may keep compiled modules, as an installed package does.

    glibc has two threads share a part of the heap where it has run out of parts (eight for each core): who shares with
    whom is chance, and makes a tiny step a tenth to a third slower for as long as the process lives. So there are more.
    """
    here = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "TERM": "xterm", "MALLOC_ARENA_MAX": "64"} | here


@contextlib.contextmanager
def started(tasks: Mapping[str, Task]) -> Iterator[dict[str, Process]]:
    """Starts a process for each task, and gives each a turn to warm up, as many at a time as there are cores."""
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}
        names, at_a_time = list(tasks), os.cpu_count() or 1
        for first in range(0, len(names), at_a_time):
            some = names[first : first + at_a_time]
            for name in some:
                processes[name] = Process(tasks[name])
                stack.callback(processes[name].close)
                processes[name].begin()
            for name in some:
                processes[name].end()
        yield processes


def played(tasks: Mapping[str, Task], shares: Iterable[int]) -> dict[str, list[float]]:
    """Gives each peer a turn in each round, where several processes of it, one after the other, share the rounds.

    Args:
      tasks: What the peers do.
      shares: The rounds of each process.

    Returns:
      The seconds of each peer's turns.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for share in shares:
        with started(tasks) as processes:
            for name, own in rounds.play(processes, share).items():
                seconds[name] += own
    return seconds
