"""What testing with `training=True` does to loss, accuracy and batch norm's statistics, beside EVAL and MC_PREDICT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import ORDERS, classifier, to_test, to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZES = (8, 64)
PASSES = 5  # over the test set in training mode: the scores of a single one depend on its masks
SAMPLES = 50
WAYS = ("EVAL", *(f"training=True, batches of {size}" for size in BATCH_SIZES), "MC_PREDICT")
_COLOURS = ("#1f5fa8", "#d95f02", "#f2b37a", "#4d9a5b")


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a net with each order of dropout and batch norm, and tests it in each way.

    Args:
      seed: Of weights, order of the data, and masks.
      epochs: How long each net is trained.
    """
    found = [measure_order(order, seed, epochs) for order in ORDERS]
    return {name: value for of_order in found for name, value in of_order.items()}


def measure_order(order: str, seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Does the work of `measure` for one order; each name begins with it."""
    tf_keras.utils.set_random_seed(seed)
    model = classifier(order)
    trainer = trainer_of(model, seed)
    trainer.fit(to_train(), epochs=epochs)
    trained = model.get_weights()
    found = {"EVAL": trainer.evaluate(to_test()) | _moved(model, trained)}
    sampled = trainer.evaluate(to_test(), phase=Phase.MC_PREDICT, samples=SAMPLES)
    found["MC_PREDICT"] = sampled | _moved(model, trained)
    for size in BATCH_SIZES:
        way = f"training=True, batches of {size}"
        found[way] = tested_in_training_mode(model, size) | _moved(model, trained)
        found[way]["loss of EVAL afterwards"] = trainer.evaluate(to_test())["loss"]
        model.set_weights(trained)
    return {f"{order}: {way}: {name}": value for way, each in found.items() for name, value in each.items()}


def tested_in_training_mode(model: Any, batch_size: int) -> dict[str, float]:
    """Tests as a loop of one's own would that says `training=True`, with stock tf-keras; returns the mean scores.

    Args:
      model: Returns class probabilities.
      batch_size: Images in a batch, which batch norm then normalises by.
    """
    images, labels = digits.load().test
    batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    passes = [np.concatenate([model(batch, training=True).numpy() for batch in batches]) for _ in range(PASSES)]
    probabilities, targets = np.concatenate(passes), np.tile(labels, PASSES)
    loss = tf_keras.losses.SparseCategoricalCrossentropy()(targets, probabilities)
    return {"loss": float(loss), "accuracy": float(np.mean(probabilities.argmax(axis=1) == targets))}


def _moved(model: Any, trained: Sequence[np.ndarray]) -> dict[str, float]:
    """Returns how many of the model's variables hold other values than after training."""
    pairs = zip(model.get_weights(), trained, strict=True)
    return {"variables overwritten": float(sum(not np.array_equal(now, then) for now, then in pairs))}


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells loss and accuracy of each net in each way."""

    def told(order: str, way: str, name: str, digits: int = 3) -> str:
        key = f"{order}: {way}: {name}"
        return mean_and_spread(measurements, key, digits) if key in measurements[0] else ""

    def lost(order: str, way: str) -> float:
        in_eval, in_way = (over_seeds(measurements, f"{order}: {name}: accuracy").mean() for name in ("EVAL", way))
        return 100 * (in_eval - in_way)

    rows = [
        [
            *(order, way),
            told(order, way, "loss"),
            told(order, way, "accuracy"),
            f"{over_seeds(measurements, f'{order}: {way}: variables overwritten').mean():.0f}",
            told(order, way, "loss of EVAL afterwards"),
        ]
        for order in ORDERS
        for way in WAYS
    ]
    losses = ", ".join(f"{lost(order, WAYS[1]):.1f} ({order})" for order in ORDERS)
    largest = max(abs(lost(order, "MC_PREDICT")) for order in ORDERS)
    return Report(
        columns=["net", "tested in", "loss", "accuracy", "variables overwritten", "loss of EVAL afterwards"],
        rows=rows,
        conclusion=(
            f"Testing with training=True in batches of {BATCH_SIZES[0]} costs so many percentage points of accuracy: "
            f"{losses}; MC_PREDICT is within {largest:.1f} of EVAL and overwrites nothing."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    figure.set_size_inches(9, 4)
    losses, errors = figure.subplots(1, 2)
    for place, (way, colour) in enumerate(zip(WAYS, _COLOURS, strict=True)):
        at = np.arange(len(ORDERS)) + 0.2 * (place - 1.5)
        loss, accuracy = (
            np.array([over_seeds(measurements, f"{order}: {way}: {name}") for order in ORDERS])
            for name in ("loss", "accuracy")
        )
        for axes, values in ((losses, loss), (errors, 100 * (1 - accuracy))):
            axes.bar(at, values.mean(axis=1), 0.2, color=colour, label=way)
            axes.plot(np.repeat(at, values.shape[1]), values.ravel(), ".", color="black", markersize=3)
    losses.set_ylabel("loss on the test set (nats)")
    errors.set_ylabel("wrong on the test set (%)")
    for axes in (losses, errors):
        axes.set_xticks(range(len(ORDERS)), [order.replace(", then ", ",\nthen ") for order in ORDERS])
    figure.legend(*losses.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)


SCENARIO = Scenario(
    name="testing-in-training-mode",
    row="B1",
    line="loss, accuracy and batch norm's statistics when the test says training=True, beside EVAL and MC_PREDICT",
    measure=measure,
    report=report,
    epochs=25,
)
