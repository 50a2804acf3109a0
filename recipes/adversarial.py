"""Adversarial training (Madry et al. 2018): each image is moved to where the model errs most, then learned from.

    python recipes/adversarial.py

Takes 5 seconds of one CPU core and ends at 0.850 test accuracy under attack, 0.978 without; after usual training it
is 0.400 and 0.975 (seed 0).

The search for that place is in EVAL, inside of the TRAIN step: it meets the model as it will be attacked, with no unit
dropped, and moves no batch norm statistics. Evaluation attacks too, so that its accuracy is that under attack.
"""

import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data
from trainloop.tasks import digits

layers = tf_keras.layers
RADIUS, ATTACK_STEPS = 0.1, 3  # of a pixel's range of 0 to 1


class AdversarialTrainer(Trainer):
    def attacked(self, images, labels):
        moved = images
        for _ in range(ATTACK_STEPS):
            with tf.GradientTape() as tape:
                tape.watch(moved)
                loss = self.loss(labels, Phase.EVAL.call(self.model, moved))
            uphill = tf.sign(tape.gradient(loss, moved))
            near = tf.clip_by_value(moved + 0.5 * RADIUS * uphill, images - RADIUS, images + RADIUS)
            moved = tf.stop_gradient(tf.clip_by_value(near, 0.0, 1.0))
        return moved

    def compute_loss(self, batch, phase):
        images, labels = batch
        logits = phase.call(self.model, self.attacked(images, labels))
        return self.loss(labels, logits), logits


class Attacked(AdversarialTrainer):
    """Trains as usual, and is attacked when it is evaluated."""

    def compute_loss(self, batch, phase):
        return Trainer.compute_loss(self, batch, phase) if phase is Phase.TRAIN else super().compute_loss(batch, phase)


def train(steps: int = 600, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    pairs, test = data.from_arrays(sets.train, batch_size=64), data.from_arrays(sets.test, batch_size=64)
    scores = {}
    for name, kind in (("usual", Attacked), ("adversarial", AdversarialTrainer)):
        hidden = [layers.Dense(128), layers.BatchNormalization(momentum=0.9), layers.ReLU(), layers.Dropout(0.2)]
        model = tf_keras.Sequential(
            [tf_keras.Input([8, 8, 1]), layers.Flatten(), *hidden, layers.Dense(digits.CLASSES)]
        )
        loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        trainer = kind(model, tf_keras.optimizers.Adam(3e-3), loss=loss, metrics=["accuracy"], seed=seed)
        trainer.fit(pairs, steps=steps)
        scores[f"{name} training, attacked"] = trainer.evaluate(test)["accuracy"]
        logits = trainer.predict(data.from_arrays(sets.test[0], batch_size=64))
        scores[f"{name} training, not attacked"] = float((logits.argmax(axis=-1) == sets.test[1]).mean())
    return scores


if __name__ == "__main__":
    print(train())
