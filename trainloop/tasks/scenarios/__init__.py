"""What people believe about dropout and the training flag, measured on the digits: a scenario for each claim."""

from __future__ import annotations

import difflib

from trainloop.tasks.scenarios import (
    dropout_and_activation,
    dropout_rate,
    frozen_base,
    hand_written_dropout,
    inverted_dropout,
    mode_as_state,
    one_sample,
    phase_not_passed,
    predicting,
    recalibrated_batch_norm,
    recompiling,
    stateless_dropout,
    testing_in_training_mode,
    trained_base,
    variance_shift,
)
from trainloop.tasks.scenarios.scenario import Measurement, Report, Scenario, mean_and_spread, over_seeds

__all__ = ["ALL", "Measurement", "Report", "Scenario", "find", "mean_and_spread", "over_seeds"]

# In the order of the claims.
ALL: list[Scenario] = [
    phase_not_passed.NOT_PASSED,
    recompiling.SCENARIO,
    stateless_dropout.MEMORY,
    phase_not_passed.NOT_FORWARDED,
    testing_in_training_mode.SCENARIO,
    stateless_dropout.TRAINABLE_FLAG,
    inverted_dropout.SCENARIO,
    one_sample.SCENARIO,
    trained_base.SCENARIO,
    frozen_base.SCENARIO,
    predicting.SCENARIO,
    mode_as_state.SCENARIO,
    hand_written_dropout.SCENARIO,
    variance_shift.SCENARIO,
    dropout_and_activation.SCENARIO,
    recalibrated_batch_norm.SCENARIO,
    dropout_rate.SCENARIO,
]


def find(name: str) -> Scenario:
    """Returns the scenario of a name.

    Raises:
      ValueError: If there is none; the nearest name is proposed.

    Example:
      >>> find("inverted-dropout").row
      'B3'
    """
    names = [scenario.name for scenario in ALL]
    if name in names:
        return ALL[names.index(name)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"
    raise ValueError(f"{name!r} is no scenario; {hint}")
