"""Whether dropout is on where it should be, in programs that do not pass the phase: stock tf-keras beside trainloop."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop.contracts import contract
from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.lost_phases import AT_THE_CALL, IMAGES, IN_A_CUSTOM_CALL, RATE, Program
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario
from trainloop.violations import PhaseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("stock, to train", "stock, to infer", "TRAIN", "EVAL")
BY_GUARD, BY_CONTRACT = -1.0, -2.0  # In the place of a share: who refused the program.
_LEAST = 0.1  # A share below this is no dropout of rate 0.5, on images with thousands of lit pixels.


def dropped(program: Program, phase: Phase, by_trainloop: bool) -> float:
    """Returns which share of the lit pixels of real digits a program loses, or who refused it before it ran.

    Args:
      program: What is run, compiled as a training step would be.
      phase: What its author wants.
      by_trainloop: Whether guard and contract look at the author's line; else it is run by stock tf-keras.
    """
    images = tf.constant(digits.load().train[0][:IMAGES])
    made = program.make()

    def line(x: tf.Tensor) -> tf.Tensor:
        return program.call(made, x, phase.training)

    def step(x: tf.Tensor) -> tf.Tensor:
        with phase.scope() if by_trainloop else contextlib.nullcontext():
            return line(x)

    try:
        traced = tf.function(step).get_concrete_function(images)
    except PhaseError:
        return BY_GUARD
    if by_trainloop and contract(line, phase, images).verdict == "violated":
        return BY_CONTRACT
    return float(np.mean(traced(images).numpy()[images > 0] == 0))


def measure(programs: Sequence[Program], seed: int, epochs: int) -> Measurement:
    """Runs each program to train and to infer, with and without trainloop.

    Args:
      programs: What is run.
      seed: Decides which pixels are dropped.
      epochs: Not used: nothing is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    runs = {
        "stock, to train": (Phase.TRAIN, False),
        "stock, to infer": (Phase.EVAL, False),
        "TRAIN": (Phase.TRAIN, True),
        "EVAL": (Phase.EVAL, True),
    }
    return {
        f"{program.title}: {column}": dropped(program, phase, by_trainloop)
        for program in programs
        for column, (phase, by_trainloop) in runs.items()
    }


def is_wrong(share: float, column: str) -> bool:
    """Returns whether dropout was on where it should be off, or off where it should be on; a refusal is not wrong."""
    return share >= 0 and (share > _LEAST) != (column in ("stock, to train", "TRAIN"))


def report(programs: Sequence[Program], measurements: Sequence[Measurement]) -> Report:
    """Tells for each program what became of the dropout."""
    shares = _shares(programs, measurements)
    wrong = [[is_wrong(share, column) for share, column in zip(row, COLUMNS, strict=True)] for row in shares]
    stock, ours = (sum(any(row[columns]) for row in wrong) for columns in (slice(0, 2), slice(2, 4)))
    guard, by_contract = (int((shares == who).any(axis=1).sum()) for who in (BY_GUARD, BY_CONTRACT))
    return Report(
        columns=["program", *COLUMNS],
        rows=[
            [f"`{program.title}`" if "(" in program.title else program.title, *map(_told, row, row_is_wrong)]
            for program, row, row_is_wrong in zip(programs, shares, wrong, strict=True)
        ],
        conclusion=(
            f"Of {len(programs)} programs {stock} run in a wrong phase with stock tf-keras, without an error, and "
            f"{ours} with trainloop: {guard} are refused by the guard and {by_contract} by the contract, the others "
            "are given the phase."
        ),
        draw=lambda figure: _draw(figure, programs, shares),
    )


def _shares(programs: Sequence[Program], measurements: Sequence[Measurement]) -> np.ndarray:
    """Returns the mean over the seeds, `[programs, columns]`."""
    shares = [[[each[f"{p.title}: {column}"] for column in COLUMNS] for p in programs] for each in measurements]
    return np.mean(np.asarray(shares, np.float64), axis=0)


def _told(share: float, wrong: bool) -> str:
    if share < 0:
        return _refusal(share)
    return (f"on ({share:.2f})" if share > _LEAST else "off") + (", wrong" if wrong else "")


def _refusal(share: float) -> str:
    return f"refused by the {'guard' if share == BY_GUARD else 'contract'}"


def _draw(figure: Figure, programs: Sequence[Program], shares: np.ndarray) -> None:
    figure.set_size_inches(9, 1.6 + 0.34 * len(programs))
    for place, (axes, column) in enumerate(zip(figure.subplots(1, 4, sharey=True), COLUMNS, strict=True)):
        for line, share in enumerate(shares[:, place]):
            wrong = is_wrong(share, column)
            colour = "#d95f02" if wrong else "#1f5fa8"
            if share < 0:
                axes.text(
                    *(0.0, line, _refusal(share)),
                    va="center",
                    fontsize=8,
                    color="#555555",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
                )
            else:
                axes.plot([0, share], [line, line], color=colour, linewidth=3)
                axes.plot(share, line, "X" if wrong else "o", color=colour, markersize=7)
        axes.set_title(column if place < 2 else f"trainloop, {column}", fontsize=9, loc="left")
        axes.axvline(0.0 if "infer" in column or column == "EVAL" else RATE, color="#b8b8b8", linestyle="--", zorder=0)
        axes.set_xlim(-0.05, 0.65)
        axes.set_yticks(range(len(programs)), [program.title for program in programs], fontsize=8)
        axes.tick_params(labelsize=8)
    axes.invert_yaxis()
    figure.supxlabel(
        "share of the lit pixels that comes out as 0 (dashed: dropout of rate 0.5 on, or off; crosses: wrong)",
        fontsize=9,
    )


NOT_PASSED = Scenario(
    name="phase-not-passed",
    row="A1",
    line="a caller that does not pass the phase, in seven ways: what stock tf-keras does, and what trainloop",
    measure=functools.partial(measure, AT_THE_CALL),
    report=functools.partial(report, AT_THE_CALL),
)
NOT_FORWARDED = Scenario(
    name="call-without-training",
    row="A4",
    line="a custom call that does not forward training, in eleven ways: where that loses dropout, and where not",
    measure=functools.partial(measure, IN_A_CUSTOM_CALL),
    report=functools.partial(report, IN_A_CUSTOM_CALL),
)
