"""A metric that decides something: which value is better, and names that are not there."""

import numpy as np
import pytest

from trainloop.monitor import Monitor


@pytest.mark.parametrize(
    ("mode", "value", "on", "by", "improves"),
    [
        ("min", 0.4, 0.5, 0.0, True),
        ("min", 0.5, 0.5, 0.0, False),
        ("min", 0.45, 0.5, 0.1, False),
        ("min", 0.35, 0.5, 0.1, True),
        ("max", 0.6, 0.5, 0.0, True),
        ("max", 0.5, 0.5, 0.0, False),
        ("max", 0.55, 0.5, 0.1, False),
        ("max", 0.65, 0.5, 0.1, True),
        ("min", 9.0, None, 0.0, True),
        ("min", float("nan"), None, 0.0, False),
        ("max", float("inf"), 0.5, 0.0, False),
    ],
)
def test_improves(mode, value, on, by, improves):
    assert Monitor("eval/accuracy", mode, "Owner").improves(value, on, by) is improves


def test_a_loss_needs_no_mode():
    assert Monitor("eval/val_loss", None, "Owner").mode == "min"


def test_any_other_metric_needs_one():
    with pytest.raises(ValueError, match=r"Owner: monitor='eval/accuracy' is no loss.*mode='min' or mode='max'"):
        Monitor("eval/accuracy", None, "Owner")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="Owner: mode='auto' must be 'min' or 'max'"):
        Monitor("loss", "auto", "Owner")


def test_a_name_must_be_a_string():
    with pytest.raises(TypeError, match="Owner: monitor=3 must be the full name"):
        Monitor(3, "min", "Owner")


def test_value_in():
    monitor = Monitor("eval/loss", None, "Owner")
    assert monitor.value_in({"eval/loss": np.float32(0.5)}) == 0.5
    assert monitor.value_in({"loss": 0.5}) is None


def test_an_array_cannot_decide():
    with pytest.raises(TypeError, match=r"monitor='eval/recall' is an array of shape \(3,\)"):
        Monitor("eval/recall", "max", "Owner").value_in({"eval/recall": np.zeros([3])})


@pytest.mark.parametrize(
    ("name", "there", "near"),
    [
        ("val_loss", ["eval/loss", "eval/accuracy", "loss"], None),
        ("eval/acuracy", ["eval/loss", "eval/accuracy", "loss"], "'eval/accuracy'"),
        ("eval/loss", ["eval/test/loss", "loss"], "'eval/test/loss'"),
        ("los", ["loss"], "'loss'"),
    ],
)
def test_an_unknown_name_gets_the_near_ones(name, there, near):
    with pytest.raises(ValueError, match=f"monitor='{name}' is not among") as caught:
        Monitor(name, "min", "Owner").check_known(dict.fromkeys(there, 0.5))
    assert near is None or f"did you mean {near}" in str(caught.value)
    assert all(other in str(caught.value) for other in there)


@pytest.mark.parametrize("there", [[], ["loss"], ["predict/x", "loss"], ["eval/accuracy"]])
def test_a_name_is_known_or_not_yet_due(there):
    Monitor("eval/accuracy", "max", "Owner").check_known(dict.fromkeys(there, 0.5))
