"""Whether a Dropout layer remembers the training flag of its last call, and whether `trainable` switches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.auditing import audit
from trainloop.tasks import digits
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATE = 0.5
SAID = {"training=True": {"training": True}, "training=False": {"training": False}, "nothing": {}}
TRAINABLE = (True, False)
_STATE = ("variables", "attributes changed")


def measure_memory(seed: int, epochs: int) -> Measurement:
    """Calls one stock layer in each way after each way, and looks at what it holds.

    Args:
      seed: Decides which pixels are dropped.
      epochs: Not used: nothing is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    images, _ = digits.load().train
    layer = layers.Dropout(RATE)
    layer(images)  # builds it
    found: dict[str, float | np.ndarray] = {"variables": float(len(layer.variables))}
    before = {name: repr(value) for name, value in vars(layer).items()}
    for last, said_last in SAID.items():
        for now, said_now in SAID.items():
            layer(images, **said_last)
            found[f"{now} after {last}"] = float(np.mean(layer(images, **said_now).numpy()[images > 0] == 0))
    after = {name: repr(value) for name, value in vars(layer).items()}
    found["attributes changed"] = float(sum(before.get(name) != after.get(name) for name in before | after))
    return found


def report_memory(measurements: Sequence[Measurement]) -> Report:
    """Tells the dropped share, a line for what was said last and a column for what is said now."""
    now_on, *now_off = (np.array([over_seeds(measurements, f"{now} after {last}") for last in SAID]) for now in SAID)
    variables, changed = (int(over_seeds(measurements, name).sum()) for name in _STATE)
    return Report(
        columns=["the call before said", *(f"this one says {now}" for now in SAID)],
        rows=[[last, *(mean_and_spread(measurements, f"{now} after {last}") for now in SAID)] for last in SAID],
        conclusion=(
            f"With training=True {now_on.min():.3f} to {now_on.max():.3f} of the pixels are dropped, else "
            f"{np.max(now_off):.3f}, whatever the call before said; the layer has {variables} variables, and {changed} "
            "of its attributes changed."
        ),
        draw=lambda figure: _draw_memory(figure, measurements),
    )


def _draw_memory(figure: Figure, measurements: Sequence[Measurement]) -> None:
    axes = figure.subplots()
    shares = [[over_seeds(measurements, f"{now} after {last}").mean() for now in SAID] for last in SAID]
    for place, (last, row, colour) in enumerate(zip(SAID, shares, ("#d95f02", "#1f5fa8", "#999999"), strict=True)):
        bars = axes.bar(
            np.arange(3) + 0.25 * (place - 1), row, 0.23, color=colour, label=f"the call before said {last}"
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(3), [f"this call says {now}" for now in SAID])
    axes.set_ylabel("share of the lit pixels that is dropped")
    axes.set_ylim(0, 0.6)
    axes.legend(frameon=False)


def measure_trainable(seed: int, epochs: int) -> Measurement:
    """Sets `trainable` on a stock Dropout layer, compiles, and evaluates and fits.

    The model is that one layer and the targets are zeros, so that the loss is the mean square of what comes out: twice
    that of the images where dropout of rate 0.5 is on.

    Args:
      seed: Decides which pixels are dropped.
      epochs: Not used: there is nothing to learn.
    """
    tf_keras.utils.set_random_seed(seed)
    images, _ = digits.load().train
    data = (images, np.zeros_like(images))
    found: dict[str, float | np.ndarray] = {}
    for trainable in TRAINABLE:
        model = tf_keras.Sequential([tf_keras.Input(images.shape[1:]), layers.Dropout(RATE, name="drop")])
        model.get_layer("drop").trainable = trainable
        model.compile("sgd", "mse")
        square = float(np.mean(images**2))
        found[f"{trainable}: evaluate"] = model.evaluate(*data, verbose=0) / square
        found[f"{trainable}: fit"] = model.fit(*data, verbose=0).history["loss"][0] / square
        lints = [lint for lint in audit(model, images[:8]).lints if lint.name == "trainable-ignored"]
        found[f"{trainable}: named by audit"] = float(any(lint.paths == ("drop",) for lint in lints))
    return found


def report_trainable(measurements: Sequence[Measurement]) -> Report:
    """Tells the losses over those without dropout."""

    def told(trainable: bool, name: str) -> str:
        return mean_and_spread(measurements, f"{trainable}: {name}")

    def named(trainable: bool) -> bool:
        return all(each[f"{trainable}: named by audit"] for each in measurements)

    return Report(
        columns=["`trainable` of the layer", "loss of evaluate / without dropout", "loss of fit", "what audit says"],
        rows=[
            [
                *(str(trainable), told(trainable, "evaluate"), told(trainable, "fit")),
                "lint: trainable-ignored" if named(trainable) else "nothing",
            ]
            for trainable in TRAINABLE
        ],
        conclusion=(
            f"trainable=True leaves dropout off in evaluate (loss times {told(True, 'evaluate')}), and trainable=False "
            f"leaves it on in fit (times {told(False, 'fit')})."
        ),
        draw=lambda figure: _draw_trainable(figure, measurements),
    )


def _draw_trainable(figure: Figure, measurements: Sequence[Measurement]) -> None:
    axes = figure.subplots()
    for place, (trainable, colour) in enumerate(zip(TRAINABLE, ("#d95f02", "#1f5fa8"), strict=True)):
        values = [over_seeds(measurements, f"{trainable}: {call}") for call in ("evaluate", "fit")]
        at = np.arange(2) + 0.3 * (place - 0.5)
        axes.bar(at, np.mean(values, axis=1), 0.28, color=colour, label=f"layer.trainable = {trainable}")
        axes.plot(np.repeat(at, len(measurements)), np.ravel(values), ".", color="black", markersize=4)
    for level, text in ((1, "dropout off"), (2, "dropout on")):
        axes.axhline(level, color="#999999", linewidth=0.8, linestyle="--")
        axes.text(1.98, level + 0.02, text, ha="right", fontsize=9, color="#555555")
    axes.set_xticks(range(2), ["evaluate", "fit"])
    axes.set_xlim(-0.5, 2.0)
    axes.set_ylim(0, 2.6)
    axes.set_ylabel("loss / loss without dropout")
    axes.legend(frameon=False, loc="upper left")


MEMORY = Scenario(
    name="dropout-has-no-memory",
    row="A3",
    line="one Dropout layer called in each way after each way: what it drops, and what it keeps of the call before",
    measure=measure_memory,
    report=report_memory,
)
TRAINABLE_FLAG = Scenario(
    name="trainable-is-no-switch",
    row="B2",
    line="trainable=True and trainable=False on a Dropout layer, in evaluate and in fit",
    measure=measure_trainable,
    report=report_trainable,
)
