"""UPDATE_BN behind dropout: what it puts right, and when the test loss gains by it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras
from tf_keras import layers

from trainloop.phase import Phase
from trainloop.tasks import digits
from trainloop.tasks.scenarios.digits_models import ORDERS, classifier, to_train, trainer_of
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds
from trainloop.tasks.scenarios.scores import scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (0.3, 0.5, 0.7)
STAGES = (1, 4)  # times the scenario's epochs


def measure(seed: int, epochs: int) -> Measurement:
    """Trains a net with dropout before batch norm at each rate, and recalibrates it early and late.

    Args:
      seed: Of the weights, the order of the images, and the masks.
      epochs: Length of the early stage; the late one is four times as long.
    """
    found = [measure_rate(rate, seed, epochs) for rate in RATES]
    return {name: value for each in found for name, value in each.items()}


def measure_rate(rate: float, seed: int, epochs: int) -> dict[str, float | np.ndarray]:
    """Does the work of `measure` for one rate."""
    tf_keras.utils.set_random_seed(seed)
    model = classifier(ORDERS[2], rate)
    trainer = trainer_of(model, seed)
    test = digits.load().test
    found: dict[str, float | np.ndarray] = {}
    for stage in STAGES:
        trainer.fit(to_train(), epochs=stage * epochs)
        trained = model.get_weights()
        found |= _state(f"{rate}, {stage}: before", model, test)
        trainer.update_bn(to_train())
        found |= _state(f"{rate}, {stage}: after", model, test)
        changed = [not np.array_equal(one, other) for one, other in zip(trained, model.get_weights(), strict=True)]
        is_statistic = ["moving" in weight.name for weight in model.weights]
        found[f"{rate}, {stage}: other weights changed"] = float(np.sum(np.array(changed) & ~np.array(is_statistic)))
        found[f"{rate}, {stage}: statistics changed"] = float(np.sum(np.array(changed) & np.array(is_statistic)))
        model.set_weights(trained)  # the training goes on as if nothing had been measured
    return found


def _state(name: str, model: Any, test: digits.Pairs) -> dict[str, float | np.ndarray]:
    """Returns the scores, and how far the learnt variance of the last batch norm is from that without dropout."""
    last = [layer for layer in model.layers if isinstance(layer, layers.BatchNormalization)][-1]
    entering = np.asarray(Phase.EVAL.call(tf_keras.Model(model.inputs, last.input), digits.load().train[0]))
    ratios = entering.var(axis=0) / last.moving_variance.numpy()
    reached = scores(model, test)
    return {f"{name}: loss": reached.loss, f"{name}: accuracy": reached.accuracy, f"{name}: ratio": np.median(ratios)}


def report(measurements: Sequence[Measurement]) -> Report:
    """Tells statistics and scores before and after UPDATE_BN."""
    columns = [("ratio", "variance ratio"), ("loss", "test loss"), ("accuracy", "test accuracy")]
    gains = {
        key: float(np.mean(gain(measurements, *key))) for key in ((rate, stage) for rate in RATES for stage in STAGES)
    }
    best = max(gains, key=gains.__getitem__)
    worst = min(gains, key=gains.__getitem__)
    steps = to_train().steps_per_epoch
    others = sum(over_seeds(measurements, f"{rate}, {stage}: other weights changed").sum() for rate, stage in gains)

    def said(key: tuple[float, int]) -> str:
        rate, stage = key
        before, after = (
            mean_and_spread(measurements, f"{rate}, {stage}: {when}: loss") for when in ("before", "after")
        )
        return f"from {before} to {after} (rate {rate}, {'early' if stage == STAGES[0] else 'late'})"

    return Report(
        columns=["rate", "trained", *(f"{title}, {when}" for _, title in columns for when in ("before", "after"))],
        rows=[
            [
                str(rate),
                "early" if stage == STAGES[0] else f"{stage} times as long",
                *(
                    mean_and_spread(measurements, f"{rate}, {stage}: {when}: {name}")
                    for name, _ in columns
                    for when in ("before", "after")
                ),
            ]
            for rate in RATES
            for stage in STAGES
        ],
        conclusion=(
            f"{steps} steps of UPDATE_BN change the test loss at best {said(best)}, and at worst {said(worst)}; of "
            f"what is no statistic they write {others:.0f} variables."
        ),
        draw=lambda figure: _draw(figure, measurements),
    )


def gain(measurements: Sequence[Measurement], rate: float, stage: int) -> np.ndarray:
    """Returns by how much UPDATE_BN lowers the test loss, for each seed.

    Args:
      measurements: One for each seed.
      rate: One of `RATES`.
      stage: One of `STAGES`.
    """
    before, after = (over_seeds(measurements, f"{rate}, {stage}: {when}: loss") for when in ("before", "after"))
    return before - after


def _draw(figure: Figure, measurements: Sequence[Measurement]) -> None:
    for axes, stage in zip(figure.subplots(1, 2, sharey=True), STAGES, strict=True):
        for place, rate in enumerate(RATES):
            for each in measurements:
                losses = [float(each[f"{rate}, {stage}: {when}: loss"]) for when in ("before", "after")]
                axes.plot([place - 0.15, place + 0.15], losses, color="#b8b8b8", zorder=1)
            for when, offset, colour in (("before", -0.15, "#d95f02"), ("after", 0.15, "#1f5fa8")):
                losses = over_seeds(measurements, f"{rate}, {stage}: {when}: loss")
                label = f"{when} UPDATE_BN, one seed" if place == 0 else None
                axes.plot([place + offset] * len(losses), losses, "o", color=colour, label=label, zorder=2)
        axes.set_xticks(range(len(RATES)), map(str, RATES))
        axes.set_xlabel("rate of the dropout before batch norm")
        axes.set_title("trained early" if stage == STAGES[0] else f"trained {stage} times as long", fontsize=10)
        axes.set_ylim(bottom=0)
    left, _ = figure.axes
    left.set_ylabel("test loss (nats)")
    left.legend(frameon=False)


SCENARIO = Scenario(
    name="recalibrated-batch-norm",
    row="D3",
    line="UPDATE_BN puts batch norm's statistics right behind dropout; what the test loss gains depends on the rate",
    measure=measure,
    report=report,
    epochs=10,
)
