"""Where a step stands, for code inside of it: also where one step runs another one's."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Trainer, step_context


def test_outside_of_a_step_there_is_no_context():
    assert step_context.current() is None
    with pytest.raises(RuntimeError, match="called outside of a step"):
        step_context.required()


class Asks(Trainer):
    """Its step runs eagerly and asks another Trainer, whose own step is compiled, for a prediction."""

    def __init__(self, model, other, **options):
        super().__init__(model, **options)
        self.other = other
        self.asked_in = []

    def train_step(self, batch, phase):
        before = step_context.required()
        self.other.predict(tf.data.Dataset.from_tensors(batch[0]))
        assert step_context.required() is before
        self.asked_in.append(int(self.step))
        return super().train_step(batch, phase)


def test_a_step_that_runs_eagerly_may_run_a_compiled_step_of_another_trainer():
    def model():
        return tf_keras.Sequential([tf_keras.Input([2]), tf_keras.layers.Dense(1)])

    def dataset(arrays):
        return tf.data.Dataset.from_tensor_slices(arrays).batch(2)

    x, y = np.ones([6, 2], "float32"), np.ones([6, 1], "float32")
    other = Trainer(model(), default_callbacks=False)
    options = {"optimizer": tf_keras.optimizers.SGD(), "loss": "mse", "run_eagerly": True, "default_callbacks": False}
    trainer = Asks(model(), other, **options)
    trainer.fit(dataset((x, y)), steps=3)
    assert trainer.asked_in == [0, 1, 2]
    assert trainer.predict(dataset(x)).shape == (6, 1)
    assert step_context.current() is None
