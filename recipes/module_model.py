"""A plain `tf.Module`, with an argument of its own for the phase and a raw `tf.nn.dropout`.

    python recipes/module_model.py

Takes a second of one CPU core and ends at 0.975 test accuracy (seed 0).

No Keras layer is in it, so there is nothing to supply a `training` to: the step says it. The contract reads the
compiled graph, and refuses the EVAL step where `is_training` is always True.
"""

import tensorflow as tf
import tf_keras

from trainloop import Trainer, data
from trainloop.tasks import digits


class Dense(tf.Module):
    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.weights = tf.Variable(tf.random.normal([inputs, units], stddev=(2.0 / inputs) ** 0.5), name="weights")
        self.bias = tf.Variable(tf.zeros([units]), name="bias")

    def __call__(self, x):
        return x @ self.weights + self.bias


class Network(tf.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.logits = Dense(64, 128), Dense(128, digits.CLASSES)

    def __call__(self, images, is_training):
        hidden = tf.nn.relu(self.hidden(tf.reshape(images, [-1, 64])))
        if is_training:
            hidden = tf.nn.dropout(hidden, 0.3)
        return self.logits(hidden)


class ModuleTrainer(Trainer):
    def compute_loss(self, batch, phase):
        images, labels = batch
        logits = phase.call(self.model, images, is_training=phase.training)
        return self.loss(labels, logits), logits

    def predict_step(self, batch, phase):
        return phase.call(self.model, batch, is_training=phase.training)


def train(steps: int = 600, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trainer = ModuleTrainer(Network(), tf_keras.optimizers.Adam(3e-3), loss=loss, metrics=["accuracy"], seed=seed)
    trainer.fit(data.from_arrays(sets.train, batch_size=64), steps=steps)
    return {"test accuracy": trainer.evaluate(data.from_arrays(sets.test, batch_size=64))["accuracy"]}


if __name__ == "__main__":
    print(train())
