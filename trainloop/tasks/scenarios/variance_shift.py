"""Dropout before batch norm: the variance that it learns, the one it meets at inference, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.auditing import audit
from trainloop.auditing.variance_shift import CENTRED, RECTIFIED, variance_ratio
from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import ORDERS, classifier, to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import add_legend, draw_seeds, scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEEPS = (0.9, 0.7, 0.5, 0.3)
RATE = 0.7  # of the nets that are trained
INPUTS = ("hidden units of the digits", "rectified normal", "normal of mean zero")
LINT = "dropout-before-batch-norm"
_GOOD, _BAD = ORDERS[1:]


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a net with each order, sends its hidden units and random numbers through dropout and batch norm.

    Args:
      seed: Of the weights, the order of the images, the masks, and the random numbers.
      epochs: How long each net is trained.
    """
    found: dict[str, float | np.ndarray] = {}
    parts = digits.load()
    images, _ = parts.train
    for order in (_GOOD, _BAD):
        tf_keras.utils.set_random_seed(seed)
        model = classifier(order, RATE)
        trainer = trainer_of(model, seed)
        trainer.fit(to_train(), epochs=epochs)
        reached = scores(model, parts.test)
        found |= {f"{order}: loss": reached.loss, f"{order}: accuracy": reached.accuracy}
    trainer.update_bn(to_train())  # of the bad order, which was trained last
    repaired = scores(model, parts.test)
    found |= {f"{_BAD}, UPDATE_BN: loss": repaired.loss, f"{_BAD}, UPDATE_BN: accuracy": repaired.accuracy}
    lints = [lint for lint in audit(model, images[:256]).lints if lint.name == LINT]
    found["lints"] = float(len(lints))
    found |= {f"lint: {name}": value for name, value in lints[0].figures.items()}
    drop = next(layer for layer in model.layers if isinstance(layer, layers.Dropout))
    hidden = np.asarray(Phase.EVAL.call(tf_keras.Model(model.inputs, drop.input), images))
    normal = np.random.default_rng(seed).normal(size=[4096, 128]).astype(np.float32)
    fires = (hidden > 0.0).mean(axis=0) > 0.05  # the variance of a unit that hardly ever does cannot be measured
    hidden = np.tile(hidden[:, fires], [4, 1])  # each image under four masks
    for name, units in zip(INPUTS, (hidden, np.maximum(normal, 0.0), normal), strict=True):
        for keep in KEEPS:
            found |= {f"{name}, {keep}: {what}": value for what, value in shift(units, keep).items()}
    return found


def shift(units: np.ndarray, keep: float) -> dict[str, float]:
    """Returns the variance at inference over that in training, measured and predicted, and what batch norm puts out.

    Args:
      units: What goes into dropout, shape `[rows, units]`.
      keep: The share that dropout keeps.
    """
    # With a momentum of zero the moving statistics are those of the last batch, here all rows.
    learnt = layers.BatchNormalization(momentum=0.0, epsilon=1e-6)
    block = tf_keras.Sequential([layers.Dropout(1.0 - keep), learnt])
    Phase.TRAIN.call(block, units)
    means, variances = units.mean(axis=0), units.var(axis=0)
    predicted = [variance_ratio(1.0 - keep, mean, variance) for mean, variance in zip(means, variances, strict=True)]
    return {
        "measured": float(np.mean(variances / learnt.moving_variance.numpy())),
        "predicted": float(np.mean(predicted)),
        "std": float(np.asarray(Phase.EVAL.call(block, units)).std()),
    }


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells the ratios by keep probability, and the scores of the two orders."""

    def told(name: str) -> str:
        return mean_and_spread(measurements, name)

    rows = [
        [f"{name}, keep {keep}", *(told(f"{name}, {keep}: {what}") for what in ("predicted", "measured", "std"))]
        for name in INPUTS
        for keep in KEEPS
    ]
    pairs = [(f"{name}, {keep}: predicted", f"{name}, {keep}: measured") for name in INPUTS for keep in KEEPS]
    off = max(abs(float(each[one]) / float(each[other]) - 1.0) for each in measurements for one, other in pairs)
    return Report(
        columns=["into dropout", "ratio, predicted", "ratio, measured", "std behind batch norm at inference"],
        rows=rows,
        conclusion=(
            f"The prediction is within {100 * off:.0f} % of what was measured. At rate {RATE} the test loss is "
            f"{told(f'{_BAD}: loss')} for {_BAD}, {told(f'{_BAD}, UPDATE_BN: loss')} after UPDATE_BN, and "
            f"{told(f'{_GOOD}: loss')} for {_GOOD}; the accuracies are {told(f'{_BAD}: accuracy')}, "
            f"{told(f'{_BAD}, UPDATE_BN: accuracy')} and {told(f'{_GOOD}: accuracy')}."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    figure.set_size_inches(10, 4)
    ratios, loss = figure.subplots(1, 2, width_ratios=[3, 2])
    keeps = np.linspace(0.2, 1.0, 50)
    for moments, style, name in ((RECTIFIED, "-", INPUTS[1]), (CENTRED, "--", INPUTS[2])):
        predicted = [variance_ratio(1.0 - keep, *moments) for keep in keeps]
        ratios.plot(keeps, predicted, style, color="#999999", label=f"predicted, {name}")
    for name, marker, colour in zip(INPUTS, "os^", ("#d95f02", "#1f5fa8", "black"), strict=True):
        means = [np.mean(over_seeds(measurements, f"{name}, {keep}: measured")) for keep in KEEPS]
        look = {"fillstyle": "none", "markersize": 12} if name == INPUTS[0] else {}  # a ring: the points coincide
        ratios.plot(KEEPS, means, marker, color=colour, label=f"measured, {name}", **look)
    ratios.set_xlabel("keep probability (1 - rate)")
    ratios.set_ylabel("variance, inference / training")
    ratios.set_ylim(0, 1.05)
    ratios.legend(frameon=False, fontsize=8)
    nets = {"dropout,\nthen BN": _BAD, "the same after\nUPDATE_BN": f"{_BAD}, UPDATE_BN", "BN,\nthen dropout": _GOOD}
    by_net = {label: over_seeds(measurements, f"{net}: loss") for label, net in nets.items()}
    draw_seeds(loss, by_net, f"test loss at rate {RATE} (nats)")
    loss.set_xlim(left=0)
    add_legend(figure, loss)


SCENARIO = Scenario(
    name="variance-shift",
    row="D1",
    line="dropout before batch norm: the variance at inference is not the one that was learnt",
    measure=measure,
    report=report,
    epochs=10,
)
