"""The reports of rows C and D on made-up measurements: nothing has to be trained to draw them."""

import pytest

from trainloop.tasks import scenarios
from trainloop.tasks.scenarios.dropout_rate import RATES
from trainloop.tasks.scenarios.dropout_rate import SCENARIO as DROPOUT_RATE

OF_C_AND_D = [scenario for scenario in scenarios.ALL if scenario.row[0] in "CD"]


class MadeUp(dict):
    """A measurement in which every number that was not given is the same."""

    def __missing__(self, name):
        assert isinstance(name, str)
        return 0.25


@pytest.mark.parametrize("scenario", OF_C_AND_D, ids=lambda scenario: scenario.name)
def test_table_and_figure_are_made_of_any_measurements(scenario):
    report = scenario.report([MadeUp(), MadeUp()])
    assert all(len(row) == len(report.columns) for row in report.rows)
    assert "0.250 ± 0.000" in report.table()
    axes = report.figure().axes
    assert all(each.get_xlabel() for each in axes)
    assert any(each.get_ylabel() or len(each.get_yticklabels()) > 2 for each in axes)


def test_the_rate_with_the_lowest_loss_is_named():
    losses = dict(zip(RATES, (0.5, 0.4, 0.3, 0.2, 0.3, 0.9), strict=True))
    measured = MadeUp({f"{rate}: validation loss": loss for rate, loss in losses.items()})
    assert "The validation loss is lowest at rate 0.4: 0.200. At 0.05" in DROPOUT_RATE.report([measured]).conclusion
