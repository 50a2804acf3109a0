"""A1 and A4: programs that lose the phase, or only seem to."""

import pytest

from tests.tasks.scenarios.margin import lower_bound, upper_bound
from trainloop.tasks.scenarios.lost_phases import AT_THE_CALL, IN_A_CUSTOM_CALL
from trainloop.tasks.scenarios.phase_not_passed import BY_CONTRACT, BY_GUARD, NOT_FORWARDED, NOT_PASSED

# What becomes of the dropout: stock to train, stock to infer, TRAIN, EVAL.
ON, OFF = "on", "off"
FATES = {
    "model(x)": (OFF, OFF, ON, OFF),
    "model(x) with RandomFlip in the place of Dropout": (ON, ON, ON, OFF),
    "model.call(x, training=...)": (OFF, OFF, ON, OFF),
    "vae.decode(x), a method": (OFF, OFF, ON, OFF),
    "a tf.Module that does not forward training": (OFF, OFF, ON, OFF),
    "Dropout(0.5)(x, training=True) baked into the model": (ON, ON, ON, BY_GUARD),
    "Dropout(0.5)(x, training=False) baked into the model": (OFF, OFF, BY_GUARD, OFF),
    "call(self, x)": (ON, OFF, ON, OFF),
    "call(self, x, training=None), not forwarded": (ON, OFF, ON, OFF),
    "call(self, x), three models deep": (ON, OFF, ON, OFF),
    "self.drop(x, training=False) hard-wired": (OFF, OFF, BY_GUARD, OFF),
    "self.inner(x, training=None)": (OFF, OFF, ON, OFF),
    "call(self, x, is_training=False)": (OFF, OFF, BY_GUARD, OFF),
    "a helper whose training=False nobody fills": (OFF, OFF, BY_GUARD, OFF),
    "self.drop.call(x)": (OFF, OFF, BY_GUARD, OFF),
    "self.drop(x) in a worker thread": (OFF, OFF, ON, OFF),
    "@tf.function call(self, x), first called to infer": (OFF, OFF, BY_CONTRACT, OFF),
    "@tf.function call(self, x), first called to train": (ON, ON, ON, BY_CONTRACT),
}
COLUMNS = ("stock, to train", "stock, to infer", "TRAIN", "EVAL")
SCENARIOS = {"A1": (NOT_PASSED, AT_THE_CALL), "A4": (NOT_FORWARDED, IN_A_CUSTOM_CALL)}


@pytest.mark.parametrize("row", SCENARIOS)
def test_each_program_in_each_phase(row):
    """One seed: a share is 0 exactly where dropout is off; where it is on, thousands of pixels come near the rate."""
    scenario, programs = SCENARIOS[row]
    measured = scenario.measure(0, 0)
    for program in programs:
        for column, fate in zip(COLUMNS, FATES[program.title], strict=True):
            found = measured[f"{program.title}: {column}"]
            if fate == ON:
                assert found > (0.1 if "RandomFlip" in program.title else 0.45), (program.title, column)
            else:
                assert found == (0 if fate == OFF else fate), (program.title, column)
    report = scenario.report([measured])
    wrong_with_stock = sum(FATES[program.title][:2] != (ON, OFF) for program in programs)
    assert f"{wrong_with_stock} run in a wrong phase with stock tf-keras, without an error, and 0 with" in (
        report.conclusion
    )


@pytest.mark.scenarios
@pytest.mark.parametrize("row", SCENARIOS)
def test_over_five_seeds(row):
    """The mean share is the rate to within 0.03 where dropout is on, and 0 in each seed where it is off."""
    scenario, programs = SCENARIOS[row]
    measured = [scenario.measure(seed, 0) for seed in range(5)]
    for program in programs:
        for column, fate in zip(COLUMNS, FATES[program.title], strict=True):
            found = [float(each[f"{program.title}: {column}"]) for each in measured]
            if fate != ON:
                assert set(found) == {0 if fate == OFF else fate}, (program.title, column)
            elif "RandomFlip" in program.title:
                assert lower_bound(found) > 0.1
            else:
                assert lower_bound(found) > 0.47, (program.title, column)
                assert upper_bound(found) < 0.53, (program.title, column)
