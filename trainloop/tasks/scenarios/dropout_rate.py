"""Rates of dropout from none to 0.8, on few images: too much underfits, too little does nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras

from trainloop import data
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import classifier, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8)
ROWS = 150


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a net on 150 images at each rate.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long each net is trained.
    """
    found = [measure_rate(rate, seed, epochs) for rate in RATES]
    return {name: value for each in found for name, value in each.items()}


def measure_rate(rate: float, seed: int, epochs: int) -> dict[str, float]:
    """Does the work of `measure` for one rate."""
    tf_keras.utils.set_random_seed(seed)
    parts = digits.load()
    few = parts.train[0][:ROWS], parts.train[1][:ROWS]  # always the same, so that seeds can be compared
    model = classifier("dropout only", rate, width=256)
    trainer_of(model, seed).fit(data.from_arrays(few, batch_size=50), epochs=epochs)
    validation = tuple(np.concatenate(pair) for pair in zip(parts.eval, parts.test, strict=True))
    of_both = {"train": scores(model, few), "validation": scores(model, (validation[0], validation[1]))}
    return {
        f"{rate}: {name} {score}": value for name, each in of_both.items() for score, value in each._asdict().items()
    }


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells loss and accuracy on the images trained on, and on others."""
    columns = ("train loss", "validation loss", "train accuracy", "validation accuracy")
    losses = {rate: np.mean(over_seeds(measurements, f"{rate}: validation loss")) for rate in RATES}
    best = min(RATES, key=losses.__getitem__)

    def told(rate: float, name: str) -> str:
        return mean_and_spread(measurements, f"{rate}: {name}")

    low, high = RATES[1], RATES[-1]
    return Report(
        columns=["rate", *columns],
        rows=[[str(rate), *(told(rate, name) for name in columns)] for rate in RATES],
        conclusion=(
            f"The validation loss is lowest at rate {best}: {told(best, 'validation loss')}. At {low} it is "
            f"{told(low, 'validation loss')}, without dropout {told(0.0, 'validation loss')}; at {high} even the train "
            f"loss is {told(high, 'train loss')}."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    both = figure.subplots(1, 2)
    for axes, score, label in zip(both, ("loss", "accuracy"), ("loss (nats)", "accuracy (share)"), strict=True):
        for part, colour, marker in (("train", "#d95f02", "o"), ("validation", "#1f5fa8", "s")):
            values = np.array([[float(each[f"{rate}: {part} {score}"]) for rate in RATES] for each in measurements])
            axes.plot(RATES, values.T, marker, color=colour, alpha=0.3, markersize=4)
            axes.plot(RATES, values.mean(axis=0), color=colour, marker=marker, markersize=5, label=part)
        axes.set_xlabel("rate of dropout")
        axes.set_ylabel(label)
    both[0].legend(frameon=False)


SCENARIO = Scenario(
    name="dropout-rate",
    row="D4",
    line="rates from 0.0 to 0.8 on 150 images: too low does nothing, too high underfits",
    measure=measure,
    report=report,
    epochs=100,
)
