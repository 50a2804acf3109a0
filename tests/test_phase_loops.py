"""The compiled loop of a phase is kept, and made anew where its graph would be another one."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data

X = np.random.default_rng(0).normal(size=[20, 4]).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def network():
    return tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(3), tf_keras.layers.Dense(1)])


def make(net):
    return Trainer(net, "sgd", loss="mse", default_callbacks=False)


def batches(size=4):
    return data.from_arrays((X, Y), batch_size=size, shuffle=False)


def change_last_layer(net):
    """Puts another layer in the place of the last one."""
    net.pop()
    net.add(tf_keras.layers.Dense(1))


def test_a_changed_architecture_is_the_one_that_is_evaluated():
    net = network()
    trainer = make(net)
    trainer.evaluate(batches())
    change_last_layer(net)
    assert trainer.evaluate(batches())["loss"] == pytest.approx(float(np.mean((net(X) - Y) ** 2)))


def test_a_changed_architecture_is_the_one_that_is_trained():
    """Which the optimizer refuses, as it has been built for the other; before, the layer that is gone was trained."""
    net = network()
    trainer = make(net)
    trainer.fit(batches(), epochs=1)
    change_last_layer(net)
    with pytest.raises(KeyError, match="The optimizer cannot recognize variable dense"):
        trainer.fit(batches(), epochs=2)


def test_a_changed_architecture_is_the_one_that_a_contract_is_about():
    net = network()
    trainer = make(net)
    trainer.fit(batches(), epochs=1)
    assert not trainer.contract(Phase.PREDICT).violations
    net.add(tf_keras.layers.Lambda(lambda x: x + tf.random.normal(tf.shape(x))))
    assert trainer.contract(Phase.PREDICT).violations


def test_a_contract_is_about_data_like_the_last_ones():
    seen = []

    class Noting(Trainer):
        def predict_step(self, batch, phase):
            seen.append(batch[0].shape[0])
            return phase.call(self.model, batch[0])

    trainer = Noting(network(), "sgd", loss="mse", default_callbacks=False)
    fixed = {size: tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=True) for size in (2, 4, 5)}
    trainer.fit(fixed[2], epochs=1)
    trainer.evaluate(fixed[4])
    trainer.fit(fixed[5], epochs=2)
    trainer.contract(Phase.PREDICT)
    assert seen == [5]


def test_a_contract_of_what_has_run_traces_nothing():
    trainer = make(network())
    rows = tf.data.Dataset.from_tensor_slices((X, Y)).batch(4)
    trainer.fit(rows, epochs=1, eval_data=rows)
    loops = list(trainer._loops.values())
    for phase in (Phase.TRAIN, Phase.EVAL):
        trainer.contract(phase)
    assert [list(loop._loops) for loop in loops] == [[True], [True]]
    assert list(trainer._loops.values()) == loops
