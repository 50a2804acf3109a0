"""`predict` where dropout obeys, and where `training=True` was baked into the graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.pinning import follow
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import classifier, to_test, to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import draw_panels, scores_of
from trainloop.violations import PhaseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WAYS = ("stock predict", "stock predict, baked", "trainloop, baked, follow()")
_REFUSED = "trainloop, baked"


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a classifier, and predicts the test images twice in each way.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long the classifier is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    model = classifier("dropout only")
    trainer_of(model, seed).fit(to_train(), epochs=epochs)
    always_on = baked(model)
    images, labels = digits.load().test
    found = _twice(WAYS[0], lambda: model.predict(images, batch_size=len(images), verbose=0), labels)
    found |= _twice(WAYS[1], lambda: always_on.predict(images, batch_size=len(images), verbose=0), labels)
    trainer = trainer_of(always_on, seed)
    found[f"{_REFUSED}: refused"] = 0.0
    try:
        trainer.predict(to_test())
    except PhaseError as error:
        found[f"{_REFUSED}: refused"] = float(len(error.violations))
    follow(always_on)
    return found | _twice(WAYS[2], lambda: trainer.predict(to_test()), labels)


def baked(model: tf_keras.Sequential) -> tf_keras.Model:
    """Returns a functional model on the same layers, whose dropout is called with `training=True`, once and for all.

    Example:
      >>> model = baked(classifier("dropout only"))
      >>> bool(np.all(model(np.ones([1, 8, 8, 1])) == model(np.ones([1, 8, 8, 1]))))
      False
    """
    outputs = inputs = tf_keras.Input(model.input_shape[1:])
    for layer in model.layers:
        outputs = layer(outputs, training=True) if isinstance(layer, layers.Dropout) else layer(outputs)
    return tf_keras.Model(inputs, outputs)


def _twice(name: str, predict: Any, labels: np.ndarray) -> dict[str, float | np.ndarray]:
    first, second = predict(), predict()
    found = scores_of(first, labels)
    return {
        f"{name}: differ": float(np.abs(first - second).max()),
        f"{name}: other answers": float(np.mean(first.argmax(axis=1) != second.argmax(axis=1))),
        f"{name}: loss": found.loss,
        f"{name}: accuracy": found.accuracy,
    }


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells how far two predictions of the same images differ, and how good the first is."""
    columns = {"differ": "largest difference of two calls", "other answers": "other answer", "loss": "test loss"}
    columns |= {"accuracy": "test accuracy"}
    rows = [[way, *(mean_and_spread(measurements, f"{way}: {name}") for name in columns)] for way in WAYS]
    layers_named = min(float(each[f"{_REFUSED}: refused"]) for each in measurements)
    rows.insert(2, [_REFUSED, f"PhaseError, {layers_named:.0f} layers named", "", "", ""])
    return Report(
        columns=["way", *columns.values()],
        rows=rows,
        conclusion=(
            f"Two calls of predict give the same bits, unless dropout is baked in: then "
            f"{100 * np.mean(over_seeds(measurements, f'{WAYS[1]}: other answers')):.1f} % of the answers change "
            "from call to call."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    def of(what: str) -> dict[str, np.ndarray]:
        return {way: over_seeds(measurements, f"{way}: {what}") for way in WAYS}

    panels = {"two calls differ by (probability)": of("differ"), "test loss (nats)": of("loss")}
    draw_panels(figure, panels, left=-0.03)


SCENARIO = Scenario(
    name="predicting",
    row="C3",
    line="predict turns dropout off by itself, unless training=True is baked in; follow() repairs that",
    measure=measure,
    report=report,
    epochs=10,
)
