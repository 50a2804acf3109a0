"""`waive`: what is accepted is shown, and what accepts nothing is an error."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers

from trainloop import Phase, Trainer, contract, data, waive

X = np.ones([4, 3], np.float32)


class Foreign(layers.Layer):
    """Draws, counts and calls Python, in every phase."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return tf.nn.dropout(tf.numpy_function(np.tanh, [inputs], tf.float32), 0.5)


def model() -> tf_keras.Sequential:
    inner = tf_keras.Sequential([Foreign(name="foreign")], name="inner")
    found = tf_keras.Sequential([inner])
    found.build([4, 3])
    return found


def test_each_waiver_accepts_its_effects_and_is_shown_with_its_reason():
    foreign = model()
    report = contract(foreign, Phase.EVAL, X)
    assert len(report.violations) == 2
    assert len(report.unproved) == 1
    waive(foreign, "random inner/*", reason="sampled on purpose")
    report = contract(foreign, Phase.EVAL, X)
    assert [violation.path for violation in report.violations] == ["inner/foreign/calls"]
    waive(foreign, "write inner/foreign/calls", reason="a counter")
    assert contract(foreign, Phase.EVAL, X).verdict == "not proved"
    waive(foreign, "unknown PyFunc", reason="tanh has no state")
    report = contract(foreign, Phase.EVAL, X)
    assert report.verdict == "holds"
    assert sorted((each.effect, each.reason) for each in report.waived) == [
        ("random inner/foreign", "sampled on purpose"),
        ("unknown PyFunc", "tanh has no state"),
        ("write inner/foreign/calls", "a counter"),
    ]
    assert "sampled on purpose" in str(report)
    assert {each.kind for each in report.effects} == {"random", "write", "unknown"}, "what is waived is still told"


def test_a_waiver_of_a_part_counts_its_paths_from_there():
    foreign = model()
    for pattern in ("random foreign", "write foreign/calls", "unknown *PyFunc"):
        waive(foreign.layers[0], pattern, reason="not ours")
    assert contract(foreign, Phase.EVAL, X).verdict == "holds"


def test_a_waiver_holds_for_its_model_alone():
    one, other = model(), model()
    waive(one, "random *", reason="r")
    waive(one, "write *", reason="r")
    assert contract(one, Phase.EVAL, X).verdict == "not proved"
    assert contract(other, Phase.EVAL, X).verdict == "violated"


def test_a_waiver_may_match_a_layer_that_does_nothing_here():
    dropout = tf_keras.Sequential([layers.Dropout(0.5, name="drop")])
    waive(dropout, "random drop", reason="always on elsewhere")
    waive(dropout, "unknown EagerPyFunc", reason="in another phase")
    assert contract(dropout, Phase.EVAL, X).waived == ()


def test_a_waiver_that_matches_nothing_is_an_error_that_lists_near_names():
    foreign = model()
    waive(foreign, "random iner/foreign", reason="typed wrongly")
    with pytest.raises(ValueError, match=r"'random iner/foreign' matches no effect.*'random inner/foreign'"):
        contract(foreign, Phase.EVAL, X)


def test_a_waiver_does_not_keep_its_model():
    foreign = model()
    waive(foreign, "random *", reason="r")
    gone = weakref.ref(foreign)
    del foreign
    tf_keras.backend.clear_session()
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(
    ("pattern", "reason", "message"),
    [
        ("draw *", "r", r"effect_pattern='draw \*' is not 'random <layer path>'"),
        ("random", "r", "effect_pattern='random' is not"),
        ("unknown EagerPyFun", "r", "names no type of op; near it are EagerPyFunc"),
        ("random *", " ", "reason=' ' says nothing"),
    ],
)
def test_bad_waivers_are_refused(pattern, reason, message):
    with pytest.raises(ValueError, match=message):
        waive(model(), pattern, reason=reason)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="model=3 holds no layers or variables"):
        waive(3, "random *", reason="r")


def test_a_draw_in_no_layer_is_accepted_with_a_trainer_and_without():
    dense = tf_keras.Sequential([layers.Dense(1)])
    waive(dense, "random random_normal", reason="smoothing on purpose")

    def smoothed(x):
        return dense(x + tf.random.normal(tf.shape(x)))

    class Smoothing(Trainer):
        def compute_loss(self, batch, phase):
            outputs = smoothed(batch[0])
            return self.loss(batch[1], outputs), outputs

    trainer = Smoothing(dense, "sgd", loss="mse", default_callbacks=False)
    trainer.evaluate(data.from_arrays((np.ones([8, 3], "float32"), np.ones([8, 1], "float32")), batch_size=4))
    for report in (contract(smoothed, Phase.EVAL, X), trainer.contract(Phase.EVAL)):
        assert [each.effect for each in report.waived] == ["random random_normal"]
        assert report.verdict == "holds"
