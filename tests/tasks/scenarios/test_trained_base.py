"""C1: a base does in each phase what the policy says."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.phase import Phase
from trainloop.tasks.scenarios.pretrained import RATE
from trainloop.tasks.scenarios.scenario import over_seeds
from trainloop.tasks.scenarios.trained_base import SCENARIO, agrees


def test_each_phase_keeps_its_policy():
    """One seed. The dropped are counted over more than 10^4 units: 0.03 is five times their spread."""
    measured = SCENARIO.measure(0, 1)
    assert all(agrees(phase, measured) for phase in Phase)
    assert {phase: float(measured[f"{phase.value} dropped"]) for phase in Phase} == {
        Phase.TRAIN: pytest.approx(RATE, abs=0.03),
        Phase.EVAL: 0.0,
        Phase.PREDICT: 0.0,
        Phase.MC_PREDICT: pytest.approx(RATE, abs=0.03),
        Phase.UPDATE_BN: 0.0,
    }
    assert "In 5 of 5 phases" in SCENARIO.report([measured]).conclusion


@pytest.mark.scenarios
def test_over_five_seeds():
    """The policy exactly in each seed; the dropped share to within 0.02, the shift of the moving statistics a lot."""
    measured = [SCENARIO.measure(seed, SCENARIO.epochs) for seed in range(5)]
    assert all(agrees(phase, each) for phase in Phase for each in measured)
    for phase in (Phase.TRAIN, Phase.MC_PREDICT):
        dropped = over_seeds(measured, f"{phase.value} dropped")
        assert RATE - 0.02 < lower_bound(dropped) < upper_bound(dropped) < RATE + 0.02
    assert lower_bound(over_seeds(measured, "eval off centre")) > 0.13
