"""What a base with dropout and batch norm does in each phase, beside the policy of the phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tf_keras

from trainloop.phase import Phase
from trainloop.tasks.scenarios.pretrained import RATE, dropped_share, pretrained_base, upper_half
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ON, _OFF = "#d95f02", "#1f5fa8"


def measure(seed: int, epochs: int) -> Measurement:
    """Calls a base that has learnt the digits 0 to 4 on the digits 5 to 9, once in each phase.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: How long the base is trained.
    """
    tf_keras.utils.set_random_seed(seed)
    base = pretrained_base(seed, epochs)
    normal = base.get_layer("bn")
    names = ("bn", "relu", "drop")
    seen = tf_keras.Model(base.inputs, [base.get_layer(name).output for name in names])
    images, _ = upper_half().train
    weights = base.get_weights()
    found: dict[str, float | np.ndarray] = {}
    for phase in Phase:
        normalised, entered, left = (np.asarray(each) for each in phase.call(seen, images))
        # By its own statistics a batch is centred at beta, unit by unit; by those of other digits it is not.
        off_centre = np.abs(normalised.mean(axis=0) - normal.beta.numpy()).mean()
        after = base.get_weights()
        found |= {
            f"{phase.value} dropped": dropped_share(entered, left),
            f"{phase.value} off centre": off_centre,
            f"{phase.value} written": float(sum(np.any(a != b) for a, b in zip(weights, after, strict=True))),
        }
        base.set_weights(weights)
    return found


def agrees(phase: Phase, measurement: Measurement) -> bool:
    """Returns whether a base did what the policy of a phase says.

    Args:
      phase: The phase.
      measurement: What was measured of one seed.
    """
    drops = float(measurement[f"{phase.value} dropped"]) > 0.0
    by_batch = float(measurement[f"{phase.value} off centre"]) < 1e-3
    wrote = float(measurement[f"{phase.value} written"]) > 0.0
    policy = phase.policy
    may_write = "batch_norm" in policy.writes
    return (drops, by_batch, wrote) == (policy.dropout, policy.batch_norm == "batch", may_write)


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells what was dropped in each phase, and by which statistics was normalised."""

    def told(phase: Phase, name: str) -> str:
        return mean_and_spread(measurements, f"{phase.value} {name}")

    agreed = [phase for phase in Phase if all(agrees(phase, each) for each in measurements)]
    return Report(
        columns=["phase", "policy: dropout", "units dropped", "policy: batch norm", "mean off centre", "BN written"],
        rows=[
            [
                phase.name,
                "on" if phase.policy.dropout else "off",
                told(phase, "dropped"),
                f"{phase.policy.batch_norm} statistics",
                told(phase, "off centre"),
                "yes" if all(each[f"{phase.value} written"] for each in measurements) else "no",
            ]
            for phase in Phase
        ],
        conclusion=(
            f"In {len(agreed)} of {len(Phase)} phases the base did what the policy says: it drops "
            f"{told(Phase.TRAIN, 'dropped')} of its units in TRAIN and {told(Phase.PREDICT, 'dropped')} in PREDICT."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    axes = figure.subplots()
    shares = [float(np.mean(over_seeds(measurements, f"{phase.value} dropped"))) for phase in Phase]
    lines = range(len(shares))
    axes.barh(lines, shares, color=[_ON if phase.policy.dropout else _OFF for phase in Phase], height=0.6)
    for line, share in enumerate(shares):
        axes.annotate(f"{share:.3f}", (share, line), xytext=(5, 0), textcoords="offset points", va="center")
    axes.axvline(RATE, color="#555555", linewidth=0.8, linestyle="--")
    axes.set_yticks(lines, [f"{phase.name}\nBN: {phase.policy.batch_norm} statistics" for phase in Phase])
    axes.set_ylim(len(shares) - 0.4, -0.6)
    axes.set_xlim(0, 0.65)
    axes.set_xlabel(f"share of the base's units that are dropped (rate {RATE}, dashed)")


SCENARIO = Scenario(
    name="trained-base",
    row="C1",
    line="a base's dropout and batch norm in each of the five phases, beside the policy",
    measure=measure,
    report=report,
    epochs=10,
)
