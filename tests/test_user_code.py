"""Whether AutoGraph is on in user code, by whichever way the framework calls it."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import trainloop
from trainloop import Phase, Trainer, data

X = np.ones([8, 4], "float32")
Y = np.zeros([8, 1], "float32")


class Branching(tf_keras.Model):
    """Fails where AutoGraph is off, since a tensor is no bool."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.dense = tf_keras.layers.Dropout(0.5), tf_keras.layers.Dense(1)

    def call(self, x: tf.Tensor, training: Any = None) -> tf.Tensor:
        for _ in tf.range(2):
            if tf.reduce_sum(x) > 1e6:
                x = -x
        return self.dense(self.dropout(x, training=training))


class OfTheDefault(Trainer):
    def compute_loss(self, batch: Any, phase: Phase) -> Any:
        return super().compute_loss(batch, phase)


class OfItsOwn(Trainer):
    def compute_loss(self, batch: Any, phase: Phase) -> tf.Tensor:
        outputs = phase.call(self.model, batch[0])
        if tf.reduce_mean(outputs) > 1e6:
            outputs = -outputs
        return tf.reduce_mean(outputs)


def source() -> Any:
    return data.from_arrays((X, Y), batch_size=4)


@pytest.mark.parametrize("kind", [Trainer, OfTheDefault, OfItsOwn])
def test_a_model_branches_on_tensors_in_each_method_of_a_trainer(kind: type[Trainer]):
    trainer = kind(Branching(), "sgd", loss="mse", default_callbacks=False, seed=0)
    trainer.fit(source(), steps=2)
    assert set(trainer.evaluate(source())) == {"loss"}
    assert trainer.predict(source()).shape == (8, 1)
    assert trainer.predict(source(), phase=Phase.MC_PREDICT, samples=3).mean.shape == (8, 1)


@pytest.mark.parametrize("phase", [Phase.TRAIN, Phase.EVAL])
def test_a_model_branches_on_tensors_in_a_contract(phase: Phase):
    model = Branching()
    model(X)
    assert trainloop.contract(model, phase, tf.TensorSpec([None, 4])).verdict == "holds"
    assert trainloop.contract(lambda x: -model(x), phase, tf.TensorSpec([None, 4])).verdict == "holds"


def test_a_function_branches_on_tensors_in_a_contract():
    def clipped(x: tf.Tensor) -> tf.Tensor:
        if tf.reduce_sum(x) > 1e6:
            return -x
        return x

    assert trainloop.contract(clipped, Phase.EVAL, tf.TensorSpec([None, 4])).verdict == "holds"
