"""A base that learnt the digits 0 to 4, fine-tuned on 5 to 9: frozen or not, pinned or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras

from trainloop.phase import Phase
from trainloop.pinning import pin
from trainloop.tasks.scenarios.pretrained import (
    dropped_share,
    fit,
    in_and_out_of_dropout,
    pretrained_base,
    untrained_base,
    upper_half,
    with_head,
)
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import draw_panels, scores
from trainloop.violations import PhaseError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By what is done to the base: `trainable`, and whether it is pinned to PREDICT.
TREATMENTS = {
    "trained": (True, False),
    "trained, pinned": (True, True),
    "frozen": (False, False),
    "frozen, pinned": (False, True),
}
STOCK = "frozen, base(x, training=False)"


def measure(seed: int, epochs: int) -> Measurement:
    """Trains one base, and fine-tunes four copies of it, the same way but for what is frozen and pinned.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long the base is trained, and each copy fine-tuned.
    """
    tf_keras.utils.set_random_seed(seed)
    weights = pretrained_base(seed, epochs).get_weights()
    found = _stock(_copy(weights, trainable=False), upper_half().train[0])
    for name in TREATMENTS:
        found |= measure_treatment(name, weights, seed, epochs)
    return found


def measure_treatment(name: str, weights: list[np.ndarray], seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Does the work of `measure` for one of the copies.

    Args:
      name: One of `TREATMENTS`.
      weights: Of the base.
      seed: Of the head, the order of the images, and the masks.
      epochs: How long it is fine-tuned.
    """
    trainable, pinned = TREATMENTS[name]
    tf_keras.utils.set_random_seed(seed)
    base, half = _copy(weights, trainable), upper_half()
    if pinned:
        pin(base, Phase.PREDICT)
    model = with_head(base)
    fit(model, half, seed, epochs)
    reached = scores(model, half.test)
    weights_moved, statistics_moved = _moved(base, weights)
    entered, left = Phase.TRAIN.call(in_and_out_of_dropout(base), half.train[0])
    return {
        f"{name}: loss": reached.loss,
        f"{name}: accuracy": reached.accuracy,
        f"{name}: weights": weights_moved,
        f"{name}: statistics": statistics_moved,
        f"{name}: dropped": dropped_share(entered, left),
    }


def _copy(weights: list[np.ndarray], trainable: bool) -> tf_keras.Sequential:
    base = untrained_base()
    base.set_weights(weights)
    base.trainable = trainable
    return base


def _moved(base: tf_keras.Model, before: list[np.ndarray]) -> tuple[float, float]:
    """Returns how many of the base's three weights, and of its two moving statistics, are no longer what they were."""
    changed = [np.any(a != b) for a, b in zip(before, base.get_weights(), strict=True)]
    return float(sum(changed[:3])), float(sum(changed[3:]))


def _stock(base: tf_keras.Model, images: np.ndarray) -> dict[str, float | np.ndarray]:
    """Measures what stock Keras has for it: `training=False` baked into the graph, called with `training=True`."""
    weights = base.get_weights()
    probe = in_and_out_of_dropout(base)
    inputs = tf_keras.Input(images.shape[1:])
    baked = tf_keras.Model(inputs, probe(inputs, training=False))
    entered, left = baked(images, training=True)
    weights_moved, statistics_moved = _moved(base, weights)
    return {
        f"{STOCK}: dropped": dropped_share(entered, left),
        f"{STOCK}: weights": weights_moved,
        f"{STOCK}: statistics": statistics_moved,
        f"{STOCK}: refused in TRAIN": float(_is_refused(baked, images)),
    }


def _is_refused(model: Any, images: np.ndarray) -> bool:
    try:
        Phase.TRAIN.call(model, images[:1])
    except PhaseError:
        return True
    return False


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells, for each treatment, what the base did in training and how well the classifier became."""

    def told(name: str) -> str:
        return mean_and_spread(measurements, name)

    def largest(name: str) -> str:
        return f"{max(float(each[name]) for each in measurements):.0f}"

    def line(name: str, *test: str) -> list[str]:
        moved = f"{largest(f'{name}: weights')} of 3", f"{largest(f'{name}: statistics')} of 2"
        return [name, told(f"{name}: dropped"), *moved, *test]

    change = np.mean(over_seeds(measurements, "frozen, pinned: loss") - over_seeds(measurements, "frozen: loss"))
    refused = all(each[f"{STOCK}: refused in TRAIN"] for each in measurements)
    return Report(
        columns=["base", "dropped in TRAIN", "weights moved", "statistics moved", "test loss", "test accuracy"],
        rows=[
            *(line(name, told(f"{name}: loss"), told(f"{name}: accuracy")) for name in TREATMENTS),
            line(STOCK, "not trained", "not trained"),
        ],
        conclusion=(
            f"A frozen base drops {told('frozen: dropped')} of its units, a pinned one "
            f"{told('frozen, pinned: dropped')}; pinning the frozen base changes the test loss by {change:+.3f} on "
            f"average. A `training=False` in the graph is {'refused' if refused else 'not refused'} in TRAIN."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    def of(what: str) -> dict[str, np.ndarray]:
        return {name: over_seeds(measurements, f"{name}: {what}") for name in TREATMENTS}

    loss = "test loss on the digits 5 to 9 (nats)"
    draw_panels(figure, {"units dropped in TRAIN (share)": of("dropped"), loss: of("loss")}, left=-0.02)


SCENARIO = Scenario(
    name="frozen-base",
    row="C2",
    line="a base of digits 0-4 fine-tuned on 5-9: trainable=False leaves its dropout on, pin turns it off",
    measure=measure,
    report=report,
    epochs=10,
)
