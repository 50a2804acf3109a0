"""Dropout written by hand in NumPy against the layer, and what becomes of it where a factor is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import draw_panels, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.1, 0.3, 0.5, 0.8)
RATE = 0.5


def inverted_dropout(x: np.ndarray, mask: np.ndarray, rate: float) -> np.ndarray:
    """Returns what dropout makes of its input in training; at inference it is the input itself.

    Args:
      x: The input.
      mask: 1 where a value is kept, 0 where it is dropped.
      rate: The probability of being dropped.

    Example:
      >>> inverted_dropout(np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1]), rate=0.5)
      array([2., 0., 6.])
    """
    return x * mask / (1.0 - rate)


class UnscaledDropout(layers.Dropout):
    """Dropout that leaves kept values as they are. What derives from `Dropout` is in its family: phases govern it."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        outputs = super().call(inputs, training=training)
        return outputs * (1.0 - self.rate) if training else outputs


# What is done in training, by what the activations are multiplied at inference; and whether the two fit each other.
VARIANTS = {
    "mask / (1 - p), as they are": (layers.Dropout, 1.0, True),
    "mask, times 1 - p": (UnscaledDropout, 1.0 - RATE, True),
    "mask, as they are": (UnscaledDropout, 1.0, False),
    "mask / (1 - p), times 1 - p": (layers.Dropout, 1.0 - RATE, False),
}


def measure(seed: int, epochs: int) -> Measurement:
    """Compares values for the same mask, then trains with and without the factor and infers with and without it.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long the two classifiers are trained.
    """
    found: dict[str, float | np.ndarray] = {}
    tf_keras.utils.set_random_seed(seed)
    images, _ = digits.load().train
    lit = images > 0
    for rate in RATES:
        dropped = np.asarray(Phase.TRAIN.call(layers.Dropout(rate), images))
        by_hand = inverted_dropout(images, dropped != 0, rate)
        off = np.abs(dropped[lit] - by_hand[lit]) / images[lit]
        found |= {f"{rate} off": off.max() * (1 - rate), f"{rate} mean": dropped.sum() / images.sum()}
    nets = {of: _trained(of, seed, epochs) for of in (layers.Dropout, UnscaledDropout)}
    for name, (dropout, factor, _) in VARIANTS.items():
        found |= {f"{name}: {what}": value for what, value in _inferred(nets[dropout], factor).items()}
    return found


def _trained(dropout: type[layers.Dropout], seed: int, epochs: int) -> tf_keras.Sequential:
    """Returns a classifier of two hidden layers, each with dropout of this class behind it."""
    tf_keras.utils.set_random_seed(seed)
    hidden = [layer for _ in range(2) for layer in (layers.Dense(128, "relu"), dropout(RATE))]
    shape = [digits.SIZE, digits.SIZE, 1]
    model = tf_keras.Sequential(
        [tf_keras.Input(shape), layers.Flatten(), *hidden, layers.Dense(digits.CLASSES, "softmax")]
    )
    trainer_of(model, seed).fit(to_train(), epochs=epochs)
    return model


def _inferred(model: tf_keras.Sequential, factor: float) -> dict[str, float]:
    """Returns the scores of a classifier computed by hand, its hidden activations multiplied by a factor."""
    images, labels = digits.load().test
    denses = [layer.get_weights() for layer in model.layers if isinstance(layer, layers.Dense)]
    x = images.reshape(len(images), -1)
    means = []
    for kernel, bias in denses[:-1]:
        x = factor * np.maximum(x @ kernel + bias, 0.0)
        means.append(x.mean())
    kernel, bias = denses[-1]
    logits = x @ kernel + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    reached = scores_of(powers / powers.sum(axis=1, keepdims=True), labels)
    drop = next(layer for layer in model.layers if isinstance(layer, layers.Dropout))
    in_training = np.asarray(Phase.TRAIN.call(tf_keras.Model(model.inputs, drop.output), images)).mean()
    return {"mean ratio": means[0] / in_training, "loss": reached.loss, "accuracy": reached.accuracy}


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells the four combinations of a factor in training and at inference."""

    def told(name: str) -> str:
        return mean_and_spread(measurements, name)

    off = max(float(each[f"{rate} off"]) for each in measurements for rate in RATES) / np.finfo(np.float32).eps
    means = [float(each[f"{rate} mean"]) for each in measurements for rate in RATES]
    return Report(
        columns=[
            "in training, at inference",
            "fit each other",
            "mean, inference / training",
            "test loss",
            "test accuracy",
        ],
        rows=[
            [name, "yes" if fits else "no", *(told(f"{name}: {what}") for what in ("mean ratio", "loss", "accuracy"))]
            for name, (_, _, fits) in VARIANTS.items()
        ],
        conclusion=(
            f"Given the layer's mask, mask / (1 - p) in NumPy is the layer's output to within {off:.1f} units in the "
            f"last place of a float32, at p of {', '.join(map(str, RATES))}; the mean of the values after dropout is "
            f"{np.mean(means):.3f} of that before it."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    def of(what: str) -> dict[str, np.ndarray]:
        return {name: over_seeds(measurements, f"{name}: {what}") for name in VARIANTS}

    panels = {"mean, inference / training": of("mean ratio"), "test loss (nats)": of("loss")}
    draw_panels(figure, panels)


SCENARIO = Scenario(
    name="hand-written-dropout",
    row="C5",
    line="mask / (1 - p) in NumPy is the layer; leaving a factor out, or scaling twice, is not",
    measure=measure,
    report=report,
    epochs=10,
)
