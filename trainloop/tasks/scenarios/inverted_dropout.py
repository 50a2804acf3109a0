"""What a dropout layer does to its values, in training and at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.1, 0.2, 0.5, 0.8)


def measure(seed: int, epochs: int) -> Measurement:
    """Sends the digits through a dropout layer in both phases, and measures by what each pixel was multiplied.

    Args:
      seed: Decides which pixels are dropped.
      epochs: Not used: nothing is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    images, _ = digits.load().train
    lit = images > 0
    found: dict[str, float | np.ndarray] = {}
    for rate in RATES:
        layer = tf_keras.layers.Dropout(rate)
        factors = np.asarray(Phase.TRAIN.call(layer, images))[lit] / images[lit]
        kept = factors != 0.0
        found |= {
            f"{rate} dropped": float(1 - kept.mean()),
            f"{rate} factor of the kept": factors[kept].mean(),
            f"{rate} farthest from 1/(1-rate)": np.abs(factors[kept] - 1 / (1 - rate)).max(),
            f"{rate} mean factor": factors.mean(),
            f"{rate} changed at inference": float(np.sum(np.asarray(Phase.PREDICT.call(layer, images)) != images)),
        }
    return found


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells the factors in training beside those at inference."""

    def told(rate: float, name: str, digits: int = 3) -> str:
        return mean_and_spread(measurements, f"{rate} {name}", digits)

    changed = sum(float(each[f"{rate} changed at inference"]) for each in measurements for rate in RATES)
    off = max(float(each[f"{rate} farthest from 1/(1-rate)"]) for each in measurements for rate in RATES)
    return Report(
        columns=["rate", "dropped in TRAIN", "kept values times", "1 / (1 - rate)", "mean in TRAIN", "PREDICT times"],
        rows=[
            [
                str(rate),
                told(rate, "dropped"),
                told(rate, "factor of the kept"),
                f"{1 / (1 - rate):.3f}",
                told(rate, "mean factor"),
                "1, exactly" if all(each[f"{rate} changed at inference"] == 0 for each in measurements) else "changed",
            ]
            for rate in RATES
        ],
        conclusion=(
            f"In TRAIN a value becomes 0 or is multiplied by 1/(1 - rate) (the largest difference is {off:.1g}); at "
            f"inference {changed:.0f} values were changed."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    axes = figure.subplots()
    rates = np.linspace(0.0, 0.85, 100)
    axes.plot(rates, 1 / (1 - rates), color="#999999", label="1 / (1 - rate)")

    def mean(name: str) -> list[float]:
        return [float(over_seeds(measurements, f"{rate} {name}").mean()) for rate in RATES]

    axes.plot(RATES, mean("factor of the kept"), "o", color="#d95f02", label="TRAIN: a value that is kept")
    axes.plot(RATES, mean("mean factor"), "s", color="#1f5fa8", label="TRAIN: mean of all values, the dropped at 0")
    axes.plot(RATES, np.ones(len(RATES)), "_", color="black", markersize=18, label="PREDICT: every value")
    axes.set_xlabel("rate of the dropout layer")
    axes.set_ylabel("value out / value in")
    axes.set_ylim(0, 6)
    axes.legend(frameon=False)


SCENARIO = Scenario(
    name="inverted-dropout",
    row="B3",
    line="by what a Dropout layer multiplies: 0 or 1/(1 - rate) in training, 1 at inference",
    measure=measure,
    report=report,
)
