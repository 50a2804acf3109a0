"""The process of a peer: `python -m benchmarks.speed.child <file descriptor of the pipe>`, which the driver starts."""

from __future__ import annotations

import os
import sys
import traceback
from multiprocessing.connection import Connection

from benchmarks.speed.peers import Task
from benchmarks.speed.turns import FirstTurn, Turns


def main(channel: Connection) -> None:
    """Trains a task in turns; with None in its place, forks a process for the first turn of each task that follows."""
    task: Task | None = channel.recv()
    if task is not None:
        task.function()(task.workload, task.steps, Turns(channel), **task.kind.options)
        return
    import tensorflow as tf
    import tf_keras

    del tf, tf_keras  # imported, and not used yet: that is what a fork has of them
    while True:
        try:
            following: Task = channel.recv()
        except EOFError:
            return
        process = os.fork()
        if process == 0:
            _first_turn(following, channel)
        if os.waitpid(process, 0)[1] != 0:
            return  # the driver finds the pipe closed, and shows what was printed


def _first_turn(task: Task, channel: Connection) -> None:
    status = 1
    try:
        turns = FirstTurn(channel)
        task.function()(task.workload, task.steps, turns, **task.kind.options)
    except SystemExit:
        status = 0
    except BaseException:  # noqa: BLE001 (it ends here, whatever it is: what comes after the fork is the parent's)
        traceback.print_exc()
    finally:
        os._exit(status)


if __name__ == "__main__":
    main(Connection(int(sys.argv[1])))
