"""`pin`, `follow`, `unpin`: for a layer, a sub-model and a pattern, with and without a Trainer."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, PhaseError, Trainer, data, follow, guard, pin, unpin

layers = tf_keras.layers
X = np.random.default_rng(0).normal(size=[16, 8]).astype("float32")


class Base(tf_keras.Model):
    def __init__(self, **said):
        super().__init__()
        self.norm, self.drop, self.said = layers.BatchNormalization(), layers.Dropout(0.5), said

    def call(self, x):
        return self.drop(self.norm(x, **self.said), **self.said)


class Net(tf_keras.Model):
    """A base, which is told what the whole is told, and a head."""

    def __init__(self, base):
        super().__init__()
        self.base, self.head = base, layers.Dropout(0.5)

    def call(self, x, training=None):
        return self.base(x, training=training), self.head(x)


def zeros(y):
    return bool(tf.reduce_any(y == 0))


def moves(norm, run):
    before = norm.moving_mean.numpy()
    run()
    return not np.array_equal(before, norm.moving_mean.numpy())


def test_a_pinned_part_stays_in_its_phase_and_the_rest_does_not():
    net = Net(Base())
    net(X)
    assert pin(net.base, Phase.EVAL) == ["base"]
    base, head = Phase.TRAIN.call(net, X)
    assert (zeros(base), zeros(head)) == (False, True)
    assert not moves(net.base.norm, lambda: Phase.TRAIN.call(net, X))
    unpin(net.base)
    base, head = Phase.TRAIN.call(net, X)
    assert (zeros(base), zeros(head)) == (True, True)
    assert moves(net.base.norm, lambda: Phase.TRAIN.call(net, X))


@pytest.mark.parametrize("built", [True, False])
def test_a_pin_holds_for_layers_called_past_the_pinned_part_and_for_layers_made_later(built):
    base = tf_keras.Sequential([layers.Dense(8), layers.Dropout(0.5)])
    if built:
        base(X)
    pin(base, Phase.EVAL)
    assert not zeros(Phase.TRAIN.call(base, X))
    inside = base.layers[1]
    assert not zeros(Phase.TRAIN.call(inside, X))


def test_a_pin_sets_the_mode_and_never_trainable():
    base = Base()
    base(X)
    pin(base, Phase.EVAL)
    assert all(layer.trainable for layer in base.submodules if isinstance(layer, layers.Layer))
    assert len(base.trainable_variables) == 2


def test_a_pin_makes_a_hard_wired_value_right_where_it_is_meant():
    net = Net(Base(training=False))
    with pytest.raises(PhaseError, match="base/norm"):
        Phase.TRAIN.call(net, X)
    pin(net.base, Phase.EVAL)
    assert not zeros(Phase.TRAIN.call(net, X)[0])


def test_what_is_hard_wired_inside_a_pinned_part_obeys_the_pin():
    """Also in layers that no path leads to."""
    hidden = layers.Dropout(0.5)

    class Hides(Base):
        def call(self, x):
            return hidden(super().call(x), training=True)

    net = Net(Hides(training=True))
    net(X)
    pin(net.base, Phase.EVAL)
    assert not zeros(Phase.TRAIN.call(net, X)[0])
    assert not moves(net.base.norm, lambda: Phase.TRAIN.call(net, X))


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.EVAL], ids=lambda phase: phase.value)
def test_a_part_held_in_training_mode_in_any_phase(phase):
    net = Net(Base())
    net(X)
    pin(net.base, Phase.TRAIN, match="drop")
    assert zeros(phase.call(net, X)[0])
    assert moves(net.base.norm, lambda: phase.call(net, X)) == (phase is Phase.TRAIN)


def test_a_part_held_in_a_phase_that_goes_by_family():
    net = Net(Base())
    net(X)
    pin(net.base, Phase.MC_PREDICT)
    assert zeros(Phase.EVAL.call(net, X)[0])
    assert not moves(net.base.norm, lambda: Phase.TRAIN.call(net, X))


def test_a_scope_inside_a_pinned_part_is_the_inner_one():
    class Teaches(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.other = layers.Dropout(0.5)

        def call(self, x):
            return Phase.TRAIN.call(self.hidden[0], x)

    model = Teaches()
    object.__setattr__(model, "hidden", [layers.Dropout(0.5)])
    pin(model, Phase.EVAL)
    assert zeros(Phase.EVAL.call(model, X))


def baked(value):
    x = layers.Input([8])
    return tf_keras.Model(x, layers.Dropout(0.5, name="drop")(layers.BatchNormalization()(x, training=value), value))


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
@pytest.mark.parametrize("value", [True, False])
def test_what_follows_obeys_the_phase_whatever_was_baked_in(phase, value):
    model = baked(value)
    follow(model, match="*o*")
    assert zeros(phase.call(model, X)) == phase.policy.dropout
    assert moves(model.layers[1], lambda: phase.call(model, X)) == (phase.policy.batch_norm == "batch")


def test_a_sub_model_that_follows_takes_all_in_it_along():
    net = Net(baked(True))
    follow(net.base)
    assert not zeros(Phase.EVAL.call(net, X)[0])
    unpin(net.base)
    with pytest.raises(PhaseError, match="base/"):
        Phase.EVAL.call(net, X)


def test_the_last_pin_counts():
    net = Net(Base())
    pin(net.base, Phase.EVAL)
    pin(net.base.drop, Phase.TRAIN)
    assert zeros(Phase.PREDICT.call(net, X)[0])
    pin(net.base, Phase.EVAL)
    assert not zeros(Phase.TRAIN.call(net, X)[0])


def test_a_pattern_holds_all_it_matches():
    model = tf_keras.Sequential([layers.Dropout(0.5), tf_keras.Sequential([layers.Dropout(0.5), layers.Dropout(0.1)])])
    assert pin(model, Phase.EVAL, match="*/dropout*") == ["sequential/dropout", "sequential/dropout_1"]
    assert pin(model, Phase.EVAL, match="dropout") == ["dropout"]
    assert not zeros(Phase.TRAIN.call(model, X))


def test_layers_of_a_module_can_be_held():
    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.parts = [layers.Dropout(0.5), layers.Dropout(0.5)]

        def __call__(self, x):
            return self.parts[1](self.parts[0](x))

    module = Module()
    assert pin(module, Phase.EVAL) == ["parts/0", "parts/1"]
    assert not zeros(Phase.TRAIN.call(module, X))


@pytest.mark.parametrize("function", [lambda *a, **k: pin(*a, Phase.EVAL, **k), follow, unpin])
def test_bad_arguments(function):
    with pytest.raises(ValueError, match=r"match='drp' matches no layer; the nearest paths are drop"):
        function(Base(), match="drp")
    with pytest.raises(TypeError, match=r"layer='drop' is no layer and holds none"):
        function("drop")
    with pytest.raises(TypeError, match=r"is no layer and holds none"):
        function(tf.Module())


def test_a_pin_needs_a_phase():
    with pytest.raises(TypeError, match=r"pin: phase='eval' is not a Phase; .* did you mean Phase.EVAL"):
        pin(Base(), "eval")


def test_a_pin_does_not_keep_a_layer_alive():
    base, before = Base(), guard.all_pins()  # another test's layers may be alive still
    kept = weakref.ref(base)
    pin(base, Phase.EVAL)
    assert len(guard.all_pins()) > len(before)
    del base
    gc.collect()
    assert kept() is None
    assert guard.all_pins() <= before


def test_a_pin_set_after_a_step_was_compiled_takes_effect():
    tf_keras.utils.set_random_seed(0)
    x = layers.Input([8])
    base = tf_keras.Sequential([layers.BatchNormalization(), layers.Dropout(0.5)], name="base")
    model = tf_keras.Model(x, layers.Dense(1)(base(x)))
    trainer = Trainer(model, "sgd", loss="mse", default_callbacks=False)
    pairs = data.from_arrays((X, X[:, :1]), batch_size=8)
    norm = base.layers[0]
    assert moves(norm, lambda: trainer.fit(pairs, steps=1))
    pin(base, Phase.EVAL)
    assert not moves(norm, lambda: trainer.fit(pairs, steps=2))
    unpin(base)
    assert moves(norm, lambda: trainer.fit(pairs, steps=3))
