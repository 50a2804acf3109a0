"""A `tf.function` without a `training` parameter, called by `phase.call`: it keeps the phase of its first trace."""

import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, PhaseError, pin

layers = tf_keras.layers
ONES = tf.ones([4, 50])


def compiled(model):
    @tf.function
    def run(x):
        return model(x)

    return run


def dropout():
    return tf_keras.Sequential([layers.Dense(50), layers.Dropout(0.5, name="drop")], name="net")


def test_it_is_refused_in_a_phase_in_which_its_layers_do_something_else():
    run = compiled(dropout())
    Phase.TRAIN.call(run, ONES)
    with pytest.raises(PhaseError, match=r"drop.*training=True in the tf.function 'run', .* traced in phase 'train'"):
        Phase.EVAL.call(run, ONES)
    Phase.TRAIN.call(run, ONES)


def test_it_is_refused_before_anything_runs():
    norm = layers.BatchNormalization()
    run = compiled(norm)
    Phase.TRAIN.call(run, ONES)
    before = norm.moving_mean.numpy().copy()
    with pytest.raises(PhaseError):
        Phase.PREDICT.call(run, ONES)
    assert (norm.moving_mean.numpy() == before).all()


def test_it_serves_in_every_phase_in_which_its_layers_do_the_same():
    run = compiled(tf_keras.Sequential([layers.Dense(3), layers.BatchNormalization()]))
    for phase in (Phase.EVAL, Phase.PREDICT, Phase.EVAL):
        Phase.EVAL.call(run, ONES)
        phase.call(run, ONES)


def test_monte_carlo_dropout_is_training_to_a_dropout_and_not_to_batch_norm():
    one, other = compiled(dropout()), compiled(layers.BatchNormalization())
    for run in (one, other):
        Phase.TRAIN.call(run, ONES)
    Phase.MC_PREDICT.call(one, ONES)
    with pytest.raises(PhaseError, match="BatchNormalization has training=True"):
        Phase.MC_PREDICT.call(other, ONES)


def test_what_is_phaseless_or_pinned_serves_in_all_of_them():
    pinned = dropout()
    pin(pinned, Phase.EVAL)
    for model in (tf_keras.Sequential([layers.Dense(3)]), pinned, lambda x: Phase.PREDICT.call(layers.Dropout(0.5), x)):
        run = compiled(model)
        for phase in Phase:
            phase.call(run, ONES)


def test_one_that_takes_training_follows():
    model = dropout()

    @tf.function
    def run(x, training):
        return model(x, training=training)

    assert float(tf.reduce_min(tf.abs(Phase.TRAIN.call(run, ONES)))) == 0.0
    assert float(tf.reduce_min(tf.abs(Phase.EVAL.call(run, ONES)))) > 0.0


def test_one_that_was_traced_outside_of_any_phase_is_warned_of_where_it_is_called():
    run = compiled(dropout())
    run(ONES)
    with pytest.warns(UserWarning, match="'train' does not reach the layers in the tf.function 'run'") as caught:
        Phase.TRAIN.call(run, ONES)
    assert caught[0].filename == __file__


def test_calls_of_the_same_phase_are_silent():
    run = compiled(dropout())
    for _ in range(3):  # a warning is an error
        Phase.TRAIN.call(run, ONES)
