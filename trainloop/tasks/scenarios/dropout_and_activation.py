"""Dropout before the activation, or after it: the same for ReLU, another network for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import add_legend, draw_seeds, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("relu", "tanh", "sigmoid")
RATE = 0.5
_BEFORE, _AFTER = "dropout before", "dropout after"


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a net with each activation in both orders, from the same weights and with the same masks.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long each net is trained.
    """
    found = [measure_activation(activation, seed, epochs) for activation in ACTIVATIONS]
    return {name: value for each in found for name, value in each.items()}


def measure_activation(activation: str, seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Does the work of `measure` for one activation."""
    tf_keras.utils.set_random_seed(seed)
    parts = digits.load()
    images = parts.train[0][:256]
    nonlinear = layers.Activation(activation)
    sums = np.asarray(layers.Dense(64)(images.reshape(len(images), -1)))
    factors = np.asarray(Phase.TRAIN.call(layers.Dropout(RATE), np.ones_like(sums)))
    before, after = np.asarray(nonlinear(sums * factors)), np.asarray(nonlinear(sums)) * factors
    # Both values that a unit takes, by how often it takes them: what training puts out on average over all masks.
    mean_before = RATE * np.asarray(nonlinear(0.0 * sums)) + (1 - RATE) * np.asarray(nonlinear(sums / (1 - RATE)))
    found: dict[str, float | np.ndarray] = {
        "largest difference": np.abs(before - after).max(),
        "dropped, not zero": np.mean(before[factors == 0] != 0),
        "mean off": np.abs(mean_before - np.asarray(nonlinear(sums))).mean(),
    }
    nets = {order: _trained(activation, order, seed, epochs) for order in (_BEFORE, _AFTER)}
    for order, model in nets.items():
        found |= {f"{order}: {name}": value for name, value in scores(model, parts.test)._asdict().items()}
    pairs = zip(*(model.get_weights() for model in nets.values()), strict=True)
    found["weights that differ"] = float(sum(not np.array_equal(one, other) for one, other in pairs))
    return {f"{activation}: {name}": value for name, value in found.items()}


def _trained(activation: str, order: str, seed: int, epochs: int) -> tf_keras.Sequential:
    tf_keras.utils.set_random_seed(seed)
    pairs = [[layers.Dropout(RATE), layers.Activation(activation)] for _ in range(2)]
    blocks = [[layers.Dense(128), *(pair if order == _BEFORE else reversed(pair))] for pair in pairs]
    shape = [digits.SIZE, digits.SIZE, 1]
    model = tf_keras.Sequential(
        [tf_keras.Input(shape), layers.Flatten(), *blocks[0], *blocks[1], layers.Dense(digits.CLASSES, "softmax")]
    )
    trainer_of(model, seed).fit(to_train(), epochs=epochs)
    return model


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells how the two orders differ, in their values for one mask and after training."""

    def told(activation: str, name: str) -> str:
        return mean_and_spread(measurements, f"{activation}: {name}")

    columns = {"largest difference": "largest difference, same mask", "dropped, not zero": "dropped, yet not 0"}
    columns |= {"mean off": "mean off by", "weights that differ": "of 6 weights differ after training"}
    columns |= {f"{_BEFORE}: loss": "test loss, before", f"{_AFTER}: loss": "test loss, after"}
    digits_of = {"weights that differ": 0}
    same = [
        activation
        for activation in ACTIVATIONS
        if all(each[f"{activation}: weights that differ"] == 0 for each in measurements)
    ]
    return Report(
        columns=["activation", *columns.values()],
        rows=[
            [
                activation,
                *(mean_and_spread(measurements, f"{activation}: {name}", digits_of.get(name, 3)) for name in columns),
            ]
            for activation in ACTIVATIONS
        ],
        conclusion=(
            f"With the same masks both orders train to the same bits for {', '.join(same) or 'no activation'}. For "
            f"sigmoid {told('sigmoid', 'dropped, not zero')} of the dropped units still put something out when dropout "
            f"stands before it; for tanh the mean in training is off by {told('tanh', 'mean off')}."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    curves, loss = figure.subplots(1, 2, width_ratios=[2, 3])
    x = np.linspace(-3, 3, 121)
    for activation, colour in zip(ACTIVATIONS, ("black", "#1f5fa8", "#d95f02"), strict=True):
        nonlinear = layers.Activation(activation)
        mean_before = RATE * np.asarray(nonlinear(0.0 * x)) + (1 - RATE) * np.asarray(nonlinear(x / (1 - RATE)))
        curves.plot(x, mean_before - np.asarray(nonlinear(x)), color=colour, label=activation)
    curves.set_xlabel("sum that enters (no unit)")
    curves.set_ylabel("dropout before: mean in training - inference")
    curves.legend(frameon=False)
    nets = [
        (f"{activation}, {order.split()[1]}", f"{activation}: {order}: loss")
        for activation in ACTIVATIONS
        for order in (_BEFORE, _AFTER)
    ]
    draw_seeds(loss, {label: over_seeds(measurements, name) for label, name in nets}, "test loss (nats)")
    loss.set_xlim(left=0)
    add_legend(figure, loss)


SCENARIO = Scenario(
    name="dropout-and-activation",
    row="D2",
    line="dropout before or after the activation: the same bits for ReLU, another net for sigmoid and tanh",
    measure=measure,
    report=report,
    epochs=10,
)
