"""Several peers in one process, a thread each, of which one trains at a time.

What makes two processes of one program differ for as long as they live is the same for all of them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
from collections.abc import Mapping

from benchmarks.speed import rounds
from benchmarks.speed.peers import Kind, Task
from benchmarks.speed.turns import GO, Turns
from benchmarks.speed.workloads import Workload


class Side:
    """A peer in a thread of its own, which waits for its turns.

    Args:
      task: What it does.
    """

    def __init__(self, task: Task):
        self._channel, theirs = multiprocessing.Pipe()

        def train() -> None:
            # Whoever waits for the peer is told where it fails; where the driver has hung up, it just ends.
            with theirs, contextlib.suppress(SystemExit):
                task.function()(task.workload, task.steps, Turns(theirs), **task.kind.options)

        threading.Thread(target=train, daemon=True).start()

    def turn(self) -> float:
        """Returns the seconds of one turn.

        Raises:
          EOFError: If the peer has failed; its thread has printed why.
        """
        self._channel.send(GO)
        return self._channel.recv()["seconds"]


def peers(workload: Workload, steps: int, turns: Turns, *, kinds: Mapping[str, Kind]) -> None:
    """In each turn each of these peers has one, in an order drawn anew; their seconds are noted."""
    sides: dict[str, Side] = {}
    for name, kind in kinds.items():
        sides[name] = Side(Task(kind, workload, steps))
        sides[name].turn()  # one after the other, since they trace in it
    while True:
        turns.next()
        turns.notes["sides"] = rounds.play(sides, 1)
