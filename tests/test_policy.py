"""The policy table and the layer families."""

from typing import get_args

import pytest
import tf_keras

from trainloop import Phase, policy, register_family
from trainloop.policy import Family

FAMILIES = get_args(Family)

# phase: value of training=, then what it is for dropout, noise, augmentation, batch_norm and update, and what may be
# written
TABLE = {
    "TRAIN": (True, True, True, True, True, True, {"weights", "batch_norm", "metrics"}),
    "EVAL": (False, False, False, False, False, False, {"metrics"}),
    "PREDICT": (False, False, False, False, False, False, set()),
    "MC_PREDICT": (True, True, True, False, False, False, {"metrics"}),
    "UPDATE_BN": (True, False, False, True, True, False, {"batch_norm"}),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    training, *by_family, writes = TABLE[name]
    found = Phase[name].policy
    assert FAMILIES == ("dropout", "noise", "augmentation", "batch_norm", "update")
    assert found.training is training
    assert [found.training_for(family) for family in FAMILIES] == by_family
    assert found.training_for(None) is training
    assert found.writes == writes
    assert found.is_uniform == (name in ("TRAIN", "EVAL", "PREDICT"))


def test_every_phase_has_a_row():
    assert {phase.name for phase in Phase} == set(TABLE)


def test_a_policy_is_frozen():
    with pytest.raises(AttributeError, match="can't set"):
        Phase.EVAL.policy.dropout = True


@pytest.fixture
def families(monkeypatch):
    monkeypatch.setattr(policy, "_FAMILIES", dict(policy._FAMILIES))


@pytest.mark.usefixtures("families")
def test_a_subclass_belongs_to_the_family_of_its_nearest_registered_base():
    class DropPath(tf_keras.layers.Layer):
        pass

    class ScheduledDropPath(DropPath):
        pass

    class Jitter(ScheduledDropPath):
        pass

    assert policy.registered_family(ScheduledDropPath) is None
    register_family(DropPath, "dropout")
    register_family(Jitter, "noise")
    assert policy.registered_family(ScheduledDropPath) == "dropout"
    assert policy.registered_family(Jitter) == "noise"


@pytest.mark.parametrize(
    ("layer_class", "family", "error", "said"),
    [
        (tf_keras.layers.Dropout(0.5), "dropout", TypeError, "must be a class; pass the class, not an instance"),
        (tf_keras.layers.Dropout, "drop", ValueError, "family='drop' is unknown; it must be one of dropout, noise"),
    ],
)
def test_what_is_no_class_or_no_family_is_refused(layer_class, family, error, said):
    with pytest.raises(error, match=said):
        register_family(layer_class, family)
