"""A classifier with a loss of its own: cross-entropy with smoothed labels, trained with dropout and evaluated without.

    python recipes/classifier.py

Takes 4 seconds of one CPU core and ends at 0.983 test accuracy, 0.978 by Monte-Carlo dropout (seed 0).

One method is overridden; the tape, the update, the evaluation and the phases are the Trainer's. Monte-Carlo dropout
needs nothing more: the same model, in another phase.
"""

import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data
from trainloop.tasks import digits

layers = tf_keras.layers


class Classifier(Trainer):
    def compute_loss(self, batch, phase):
        images, labels = batch
        logits = phase.call(self.model, images)
        smooth = 0.9 * tf.one_hot(labels, digits.CLASSES) + 0.1 / digits.CLASSES
        return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(smooth, logits)), logits


def train(steps: int = 600, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    model = tf_keras.Sequential(
        [
            tf_keras.Input([8, 8, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.BatchNormalization(momentum=0.9),
            layers.Flatten(),
            layers.Dense(64, "relu"),
            layers.Dropout(0.4),
            layers.Dense(digits.CLASSES),
        ]
    )
    trainer = Classifier(model, tf_keras.optimizers.Adam(3e-3), metrics=["sparse_categorical_accuracy"], seed=seed)
    trainer.fit(
        data.from_arrays(sets.train, batch_size=64), steps=steps, eval_data=data.from_arrays(sets.eval, batch_size=64)
    )
    test = data.from_arrays(sets.test, batch_size=64)
    plain, sampled = trainer.evaluate(test), trainer.evaluate(test, phase=Phase.MC_PREDICT, samples=20)
    name = "sparse_categorical_accuracy"
    return {"test accuracy": plain[name], "by Monte-Carlo dropout": sampled[name]}


if __name__ == "__main__":
    print(train())
