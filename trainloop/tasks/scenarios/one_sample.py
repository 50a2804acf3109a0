"""How the prediction for one image varies under `training=True`, and what MC_PREDICT makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import data
from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import classifier, to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES = 1000
ORDERS = ("dropout only", "batch norm, then dropout")


def measure(seed: int, epochs: int) -> Measurement:
    """Trains two nets, and samples for each the prediction of the image that it is least sure of.

    Args:
      seed: Of weights, order of the data, and masks.
      epochs: How long each net is trained.
    """
    return {f"{order}: {name}": value for order in ORDERS for name, value in measure_order(order, seed, epochs).items()}


def measure_order(order: str, seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Does the work of `measure` for one net."""
    tf_keras.utils.set_random_seed(seed)
    model = classifier(order)
    trainer = trainer_of(model, seed)
    trainer.fit(to_train(), epochs=epochs)
    images, _ = digits.load().test
    unsure = trainer.predict(data.from_arrays(images, batch_size=len(images))).max(axis=1).argmin()
    image = images[unsure : unsure + 1]
    alone = data.from_arrays(image, batch_size=1)
    predicted = trainer.predict(alone)
    again = trainer.predict(alone)
    chosen = int(predicted[0].argmax())
    sampled: Any = trainer.predict(alone, phase=Phase.MC_PREDICT, samples=SAMPLES, keep_samples=True)
    before = model.get_weights()
    in_loop = sampled_in_a_loop(model, image)
    overwritten = sum(not np.array_equal(*pair) for pair in zip(before, model.get_weights(), strict=True))
    return {
        "PREDICT": float(predicted[0, chosen]),
        "PREDICT differs": float(np.abs(predicted - again).max()),
        "loop": in_loop[:, chosen],
        "loop mean": float(in_loop[:, chosen].mean()),
        "loop std": float(in_loop[:, chosen].std()),
        "loop overwrites": float(overwritten),
        "MC_PREDICT": sampled.samples[:, 0, chosen],
        "MC_PREDICT mean": float(sampled.mean[0, chosen]),
        "MC_PREDICT std": float(sampled.std[0, chosen]),
        "classes": float(len(np.unique(sampled.samples[:, 0].argmax(axis=-1)))),
        "mutual information": float(sampled.mutual_information[0]),
    }


def sampled_in_a_loop(model: Any, image: np.ndarray) -> np.ndarray:
    """Returns `[samples, classes]` as the loop gives them that is usually written."""
    call = tf.function(lambda x: model(x, training=True))
    return np.concatenate([call(tf.constant(image)).numpy() for _ in range(SAMPLES)])


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells mean and spread of the probability of the class that PREDICT chooses."""

    def told(order: str, name: str, digits: int = 3) -> str:
        return mean_and_spread(measurements, f"{order}: {name}", digits)

    rows = []
    for order in ORDERS:
        rows.append([order, "PREDICT, repeated", told(order, "PREDICT"), "0, exactly", "0"])
        if any(each[f"{order}: PREDICT differs"] for each in measurements):
            rows[-1][3] = "not 0"
        for way, writes in (("loop", f"{measurements[0][f'{order}: loop overwrites']:.0f}"), ("MC_PREDICT", "0")):
            title = "training=True, in a loop" if way == "loop" else way
            rows.append([order, title, told(order, f"{way} mean"), told(order, f"{way} std"), writes])
    return Report(
        columns=["net", "predicted in", "probability of the class", "its std over samples", "variables overwritten"],
        rows=rows,
        conclusion=(
            f"From mask to mask the probability of the class that PREDICT chooses has a standard deviation of "
            f"{told(ORDERS[0], 'MC_PREDICT std')}, and in {SAMPLES} samples {told(ORDERS[0], 'classes', 1)} classes "
            f"come first at least once; with batch norm the standard deviation is {told(ORDERS[1], 'loop std')} in the "
            f"loop, and {told(ORDERS[1], 'MC_PREDICT std')} in MC_PREDICT."
        ),
        draw=lambda figure: _draw(figure, measurements[0]),
    )


def _draw(figure: Figure, first: Measurement) -> None:
    figure.set_size_inches(8, 4)
    bins = np.linspace(0, 1, 26)
    for axes, order in zip(figure.subplots(1, 2, sharey=True), ORDERS, strict=True):
        axes.hist(first[f"{order}: MC_PREDICT"], bins, color="#4d9a5b", alpha=0.75, label="MC_PREDICT")
        axes.hist(
            first[f"{order}: loop"], bins, color="#d95f02", histtype="step", linewidth=1.8, label="training=True, loop"
        )
        axes.axvline(float(first[f"{order}: PREDICT"]), color="#1f5fa8", linestyle="--", label="PREDICT, every time")
        axes.set_title(order, fontsize=10, loc="left")
        axes.set_xlabel("probability of the class that PREDICT chooses")
        axes.set_xlim(0, 1)
        axes.set_yscale("log")
        axes.set_ylim(0.8, 2 * SAMPLES)
    figure.axes[0].set_ylabel(f"samples out of {SAMPLES} (first seed)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)


SCENARIO = Scenario(
    name="one-sample",
    row="B4",
    line="the prediction for one image under training=True: its distribution, beside PREDICT and MC_PREDICT",
    measure=measure,
    report=report,
    epochs=15,
)
