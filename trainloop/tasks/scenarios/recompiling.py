"""Whether dropout has to be enabled again after an inference, and what the recipes that are given for it do."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop.callbacks import Inference
from trainloop.phase import Phase
from trainloop.results import StepResult
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import to_test, to_train
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.trainer import Trainer
from trainloop.triggers import Every

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each is called with a compiled model, images and targets.
RECIPES: dict[str, Callable[..., Any]] = {
    "compile(..., training=True)": lambda model, x, y: model.compile("sgd", "mse", training=True),
    "fit(x, y, training=True)": lambda model, x, y: model.fit(x, y, training=True, verbose=0),
    "evaluate(x, y, training=True)": lambda model, x, y: model.evaluate(x, y, training=True, verbose=0),
    "predict(x, training=False)": lambda model, x, y: model.predict(x, training=False, verbose=0),
    "Dropout(0.5, training=True)": lambda model, x, y: layers.Dropout(0.5, training=True),
}
STOCK = ("fit", "evaluate", "fit again")


class Watched(Trainer):
    """Reports which share of the lit pixels the dropout in front of the net loses, and counts its traces.

    Its model returns class probabilities and the images behind the dropout.
    """

    def __init__(self, model: Any, seed: int, **options: Any):
        super().__init__(
            model,
            tf_keras.optimizers.Adam(1e-3),
            seed=seed,
            default_callbacks=False,
            **options,
        )
        self.traces = collections.Counter()

    def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
        images, labels = batch
        self.traces[phase] += 1  # Python runs this only while the step is traced.
        probabilities, behind = phase.call(self.model, images)
        dropped = 1.0 - tf.math.count_nonzero(behind, dtype=tf.float32) / tf.math.count_nonzero(
            images, dtype=tf.float32
        )
        loss = tf.reduce_mean(tf_keras.losses.sparse_categorical_crossentropy(labels, probabilities))
        return StepResult(loss=loss, outputs=probabilities, scalars={"dropped": dropped})

    def predict_step(self, batch: Any, phase: Phase) -> tf.Tensor:
        images, _ = batch
        self.traces[phase] += 1
        return phase.call(self.model, images)[0]


def watched(seed: int, **options: Any) -> Watched:
    """Returns a new trainer; equal seeds give equal ones."""
    tf_keras.utils.set_random_seed(seed)
    images = tf_keras.Input([digits.SIZE, digits.SIZE, 1])
    behind = layers.Dropout(0.5)(images)
    hidden = layers.BatchNormalization()(layers.Dense(64, "relu")(layers.Flatten()(behind)))
    probabilities = layers.Dense(digits.CLASSES, "softmax")(layers.Dropout(0.5)(hidden))
    return Watched(tf_keras.Model(images, [probabilities, behind]), seed, **options)


def measure(seed: int, epochs: int) -> Measurement:
    """Tries the recipes on stock tf-keras, and trains twice: with inference in between, and without.

    Args:
      seed: Of weights, order of the data, and masks.
      epochs: How long to train; half of it before the inference.
    """
    return with_stock(seed) | with_trainloop(seed, epochs)


def with_stock(seed: int) -> dict[str, float | np.ndarray]:
    """Returns which recipes raise TypeError, and the loss of `fit`, `evaluate` and `fit` over that without dropout.

    The model is one dropout layer and the targets are zeros, so that the loss is the mean square of what comes out:
    twice that of the images where dropout of rate 0.5 is on.
    """
    tf_keras.utils.set_random_seed(seed)
    images, _ = digits.load().train
    model = tf_keras.Sequential([tf_keras.Input(images.shape[1:]), layers.Dropout(0.5)])
    model.compile("sgd", "mse")
    data = (images, np.zeros_like(images))
    square = float(np.mean(images**2))
    losses = [model.fit(*data, verbose=0).history["loss"][0], model.evaluate(*data, verbose=0)]
    model.predict(images, verbose=0)
    losses.append(model.fit(*data, verbose=0).history["loss"][0])
    found = {f"stock {call}": loss / square for call, loss in zip(STOCK, losses, strict=True)}
    for title, recipe in RECIPES.items():
        try:
            recipe(model, *data)
        except TypeError:
            found[title] = 1.0
        else:
            found[title] = 0.0
    return dict(found)


def with_trainloop(seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Returns the dropped shares before, in and after an inference, the traces that it cost, and the bits it moved."""
    undisturbed = watched(seed)
    undisturbed.fit(to_train(), epochs=epochs)

    predictions = []
    inference = Inference(to_test(), trigger=Every(epochs=1), to=lambda trainer, found: predictions.append(found))
    trainer = watched(seed, callbacks=[inference])
    before = trainer.fit(to_train(), epochs=max(1, epochs // 2))
    within = trainer.evaluate(to_test())
    traces = sum(trainer.traces.values())
    trainer.predict(to_test())
    after = trainer.fit(to_train(), epochs=epochs)
    trainer.evaluate(to_test())
    pairs = [*zip(_bits(trainer), _bits(undisturbed), strict=True)]
    return {
        "dropped in TRAIN, before": float(np.mean(before["dropped"])),
        "dropped in EVAL": within["dropped"],
        "dropped in TRAIN, after": float(np.mean(after["dropped"])),
        "inferences": float(len(predictions) + 1),
        "traces after the first round": float(sum(trainer.traces.values()) - traces),
        "variables": float(len(pairs)),
        "variables whose bits differ": float(sum(one != other for one, other in pairs)),
    }


def _bits(trainer: Watched) -> list[bytes]:
    """Returns weights, statistics and optimizer slots as bytes."""
    model, optimizer = cast(Any, (trainer.model, trainer.optimizer))
    return [variable.numpy().tobytes() for variable in (*model.variables, *optimizer.variables)]


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells the recipes first, then what is measured."""

    def told(name: str, digits: int = 3) -> str:
        return mean_and_spread(measurements, name, digits)

    def total(name: str) -> int:
        return int(over_seeds(measurements, name).sum())

    refused = [recipe for recipe in RECIPES if total(recipe) == len(measurements)]
    inferences = total("inferences") // len(measurements)
    return Report(
        columns=["with", "what", "measured"],
        rows=[
            *(["stock", f"`{recipe}`", "TypeError" if recipe in refused else "accepted"] for recipe in RECIPES),
            *(["stock", f"loss of {call}, over that without dropout", told(f"stock {call}")] for call in STOCK),
            *(
                ["trainloop", f"share {where}", told(where)]
                for where in ("dropped in TRAIN, before", "dropped in EVAL", "dropped in TRAIN, after")
            ),
            [
                *("trainloop", f"variables whose bits differ from a run without its {inferences} inferences"),
                f"{total('variables whose bits differ')} of {total('variables')}",
            ],
            ["trainloop", "traces after the first round", str(total("traces after the first round"))],
        ],
        conclusion=(
            f"{len(refused)} of {len(RECIPES)} recipes raise TypeError, and none is needed: after an inference dropout "
            f"is on again by itself ({told('dropped in TRAIN, after', 2)} of the pixels), and "
            f"{total('variables whose bits differ')} variables differ from a run without the inference."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    stock, ours = figure.subplots(1, 2)
    parts = (
        (stock, [f"stock {call}" for call in STOCK], STOCK, (1, 2), "loss / loss without dropout"),
        (
            ours,
            ["dropped in TRAIN, before", "dropped in EVAL", "dropped in TRAIN, after"],
            ("TRAIN", "EVAL", "TRAIN again"),
            (0, 0.5),
            "share of the lit pixels that is dropped",
        ),
    )
    for axes, names, ticks, levels, label in parts:
        values = np.array([over_seeds(measurements, name) for name in names])
        colours = ["#d95f02", "#1f5fa8", "#d95f02"]
        bars = axes.bar(range(3), values.mean(axis=1), 0.6, color=colours)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
        axes.plot(np.repeat(range(3), values.shape[1]), values.ravel(), ".", color="black", markersize=4)
        for level in levels:
            axes.axhline(level, color="#999999", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(3), ticks)
        axes.set_ylabel(label)
        axes.margins(y=0.1)
    stock.set_title("stock tf-keras, never recompiled", fontsize=10, loc="left")
    ours.set_title("trainloop", fontsize=10, loc="left")


SCENARIO = Scenario(
    name="no-recompiling",
    row="A2",
    line="the recipes for enabling dropout after an inference, run for real; and training, inference, training",
    measure=measure,
    report=report,
    epochs=10,
)
