"""`verify_resume`: whether a run of your own that is killed and started again ends with the same bits.

Three processes make the runs, one after the other, and leave their states in files; this one compares.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import pathlib
import pickle
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from trainloop.launch.program import quiet_start
from trainloop.verify.comparison import differences, log_differences, log_of, take
from trainloop.verify.resume_report import Moment, ResumeReport
from trainloop.workdir import Workdir

if TYPE_CHECKING:
    from trainloop.launch import Task

STRAIGHT, KILLED, RESUMED = "straight", "killed", "resumed"  # the three processes


def verify_resume(build: Callable[..., Task], *, steps: int = 20) -> ResumeReport:
    """Proves for your own model and data that a killed run goes on to the same bits, or says what differs.

    Three runs are made, each in a process of its own: one of `2 * steps` steps; one that is killed (`SIGKILL`) when its
    checkpoint of step `steps` is complete; and one that restores this and goes on to the end. Compared are all weights,
    slots, statistics of batch normalization, metrics, the report window, the state of callbacks and the position in the
    data, at five moments, and `metrics.jsonl` without times and rates. It costs three starts of TensorFlow, three times
    the tracing, and four times `steps` training steps, with the evaluations that fall on them. Take enough steps to
    cross an evaluation or the end of an epoch, if these are what you doubt.

    Nothing of your own runs is touched: the processes write to a throw-away directory.

    Args:
      build: Called as `build(workdir=...)`; returns a `trainloop.launch.Task`, its trainer made with that workdir and
        not yet restored: what `config.task` of a config file names, too. Each process calls it anew, so it must be
        found by its name: a function in a module, or a `functools.partial` of one, no lambda. Random seeds are set
        before each call.
      steps: After how many steps the run is killed; it needs to last for twice as many.

    Returns:
      What was compared and what was found; `report.exact` says it in a word, `print(report)` in a table.

    Raises:
      TypeError: If `build` cannot be called, or does not return a Task.
      ValueError: If `steps` is not positive, a new process cannot find `build`, its Trainer has another workdir or no
        `Checkpointing`, or its run ends too early.
      RuntimeError: If one of the processes dies.

    Example:
      >>> from trainloop import verify_resume
      >>> verify_resume(lambda workdir: None)
      Traceback (most recent call last):
      ...
      ValueError: verify_resume: build=<function ...> cannot be found by a new process: ...
    """
    _check(build, steps)
    with _ends_in_order(), tempfile.TemporaryDirectory(prefix="trainloop-verify-") as directory:
        place = pathlib.Path(directory)
        for part in (STRAIGHT, KILLED, RESUMED):
            lives = _in_new_process(_run_part, build, part, steps, place)
            if not lives and not (part == KILLED and (place / KILLED / f"step {steps}").exists()):
                raise RuntimeError(
                    f"verify_resume: the process of the {part} run died. If nothing above says why: a script that "
                    'calls verify_resume needs its `if __name__ == "__main__":`'
                )
        return _compare(place, steps)


def _check(build: Any, steps: Any) -> None:
    if not callable(build):
        raise TypeError(f"verify_resume: build={build!r} must be a function that returns a trainloop.launch.Task")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps <= 0:
        raise ValueError(f"verify_resume: steps={steps!r} must be a positive whole number")
    if why := _why_not_found(build):
        raise ValueError(
            f"verify_resume: build={build!r} cannot be found by a new process: {why}. Define it in a module, under its "
            "own name"
        )


def _why_not_found(build: Callable[..., Any]) -> str:
    try:
        pickle.dumps(build)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return str(error)
    at_a_prompt = getattr(build, "__module__", "") == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    return "it was defined in a notebook or at a prompt" if at_a_prompt else ""


def _in_new_process(function: Callable[..., None], *args: Any) -> bool:
    """Calls a function in a process that is started afresh; returns whether that lived to the end of it.

    It does not outlive this process, however that ends: then, too, the pipe that it watches is closed.
    """
    context = multiprocessing.get_context("spawn")
    watched, held = context.Pipe(duplex=False)
    pool = functools.partial(concurrent.futures.ProcessPoolExecutor, 1, mp_context=context)
    with watched, held, pool(initializer=_end_with, initargs=(watched,)) as process:
        try:
            process.submit(function, *args).result()
        except concurrent.futures.BrokenExecutor:
            return False
        except BaseException:
            held.close()  # else the executor would wait until the process has done its work
            raise
    return True


def _end_with(watched: Connection) -> None:
    """Has this process end as soon as the other end of a pipe is closed, whatever it is doing."""

    def watch() -> None:
        watched.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _ends_in_order() -> Iterator[None]:
    """Has SIGTERM end this process as an exception does, so that what is made in the block is taken away again."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # whoever has set a handler knows
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _run_part(build: Callable[..., Task], part: str, steps: int, place: pathlib.Path) -> None:
    with quiet_start():
        from trainloop.verify.witness import run_part  # here, so that only the new processes import TensorFlow

    run_part(
        build,
        steps=steps,
        workdir=place / ("straight run" if part == STRAIGHT else "killed run"),
        place=place / part,
        kills=part == KILLED,
        resumes=part == RESUMED,
    )


def _compare(place: pathlib.Path, steps: int) -> ResumeReport:
    pairs = {
        "step 0": (f"{STRAIGHT}/begin 0", f"{KILLED}/begin 0"),
        f"step {steps}": (f"{STRAIGHT}/step {steps}", f"{KILLED}/step {steps}"),
        "restored": (f"{KILLED}/step {steps}", f"{RESUMED}/begin {steps}"),
        f"step {steps + 1}": (f"{STRAIGHT}/step {steps + 1}", f"{RESUMED}/step {steps + 1}"),
        "end": (f"{STRAIGHT}/end", f"{RESUMED}/end"),
    }
    moments = []
    for name, pair in pairs.items():
        expected, found = (take(place / file) for file in pair)
        moments.append(Moment(name, tuple(differences(expected, found)), expected))
    logs = [log_of(Workdir(place / run)) for run in ("straight run", "killed run")]
    return ResumeReport(
        step=steps,
        moments=tuple(moments),
        log_lines=len(logs[0]),
        log_differences=tuple(log_differences(*logs)),
        suspects=tuple(take(place / RESUMED / "suspects")),
        conditions=take(place / RESUMED / "conditions"),
    )
