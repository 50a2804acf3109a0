"""C2: what freezing and pinning do to a base, each for itself."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.tasks.scenarios.margin import lower_bound
from trainloop.tasks.scenarios import frozen_base
from trainloop.tasks.scenarios.frozen_base import SCENARIO, STOCK, measure_treatment
from trainloop.tasks.scenarios.pretrained import untrained_base
from trainloop.tasks.scenarios.scenario import over_seeds

MOVED = {"trained": (3, 2), "trained, pinned": (3, 0), "frozen": (0, 0), "frozen, pinned": (0, 0), STOCK: (0, 0)}


def check_what_is_exact(measured: Mapping[str, Any], name: str) -> None:
    """The dropped are counted over more than 10^4 units: 0.03 is five times their spread."""
    assert (measured[f"{name}: weights"], measured[f"{name}: statistics"]) == MOVED[name]
    rate = 0.5 if name in ("trained", "frozen") else 0.0
    assert measured[f"{name}: dropped"] == pytest.approx(rate, abs=0.06 * rate)


@pytest.mark.parametrize("name", ["trained, pinned", "frozen"])
def test_what_moves_and_what_drops(name):
    """One seed, one epoch, on a base that was not trained before: the two in which one of both is done."""
    check_what_is_exact(measure_treatment(name, untrained_base().get_weights(), 0, 1), name)


def test_stock_keras_and_what_the_phase_says_to_it(monkeypatch):
    """All of `measure` but the training."""
    monkeypatch.setattr(frozen_base, "fit", lambda *args: None)
    monkeypatch.setattr(frozen_base, "pretrained_base", lambda seed, epochs: untrained_base())
    measured = SCENARIO.measure(0, 1)
    check_what_is_exact(measured, STOCK)
    assert measured[f"{STOCK}: refused in TRAIN"] == 1
    assert "is refused in TRAIN" in SCENARIO.report([measured]).conclusion


@pytest.mark.scenarios
def test_over_five_seeds():
    """What moves and drops exactly in each seed; the losses of the same seed are compared."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    for each in measured:
        for name in MOVED:
            check_what_is_exact(each, name)
        assert each[f"{STOCK}: refused in TRAIN"] == 1

    for one, other, size in (("frozen", "frozen, pinned", 0.015), ("frozen, pinned", "trained", 0.08)):
        gains = over_seeds(measured, f"{one}: loss") - over_seeds(measured, f"{other}: loss")
        assert lower_bound(gains) > size
