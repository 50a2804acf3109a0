"""A mean teacher (Tarvainen and Valpola 2017): four labels in ten are drawn at random, and a model teaches itself.

    python recipes/ema_teacher.py

Takes 5 seconds of one CPU core and ends at 0.953 test accuracy; without the teacher at 0.836 (seed 0).

The teacher is a moving average of the student, which is to agree with it rather than learn each wrong label by heart.
It is called in PREDICT inside of the TRAIN step, and stands in `model=`: it changes, so it belongs to the state.
"""

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import Phase, StepResult, Trainer, data
from trainloop.tasks import digits

layers = tf_keras.layers
RANDOM, MOMENTUM, WEIGHT = 0.4, 0.99, 20.0


class MeanTeacher(Trainer):
    def train_step(self, batch, phase):
        (images, labels), student, teacher = batch, self.model["student"], self.model["teacher"]
        target = tf.nn.softmax(Phase.PREDICT.call(teacher, images))
        with tf.GradientTape() as tape:
            outputs = phase.call(student, images)
            consistency = tf.reduce_mean(tf.reduce_sum(tf.square(tf.nn.softmax(outputs) - target), axis=-1))
            loss = self.loss(labels, outputs) + WEIGHT * consistency
        self.apply_gradients(self.gradients(tape, loss, "student"), "student")
        for average, weight in zip(teacher.variables, student.variables, strict=True):
            average.assign(MOMENTUM * average + (1.0 - MOMENTUM) * weight)
        return StepResult(loss=loss, outputs=outputs, scalars={"consistency": consistency})

    def eval_step(self, batch, phase):
        images, labels = batch
        outputs = phase.call(self.model["teacher"], images)
        return StepResult(loss=self.loss(labels, outputs), outputs=outputs)


def network() -> tf_keras.Model:
    hidden = [layer for _ in range(2) for layer in (layers.Dense(256, "relu"), layers.Dropout(0.2))]
    return tf_keras.Sequential([tf_keras.Input([8, 8, 1]), layers.Flatten(), *hidden, layers.Dense(digits.CLASSES)])


def train(steps: int = 800, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    (images, labels), test = digits.load().train, data.from_arrays(digits.load().test, batch_size=64)
    rng = np.random.default_rng(seed)
    noisy = np.where(rng.random(len(labels)) < RANDOM, rng.integers(digits.CLASSES, size=len(labels)), labels)
    pairs = data.from_arrays((images, noisy.astype("int32")), batch_size=64)
    options = {"metrics": ["accuracy"], "seed": seed}
    options["loss"] = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    alone = Trainer(network(), tf_keras.optimizers.Adam(2e-3), **options)
    alone.fit(pairs, steps=steps)
    models = {"student": network(), "teacher": network()}
    models["teacher"].set_weights(models["student"].get_weights())
    taught = MeanTeacher(models, {"student": tf_keras.optimizers.Adam(2e-3)}, **options)
    taught.fit(pairs, steps=steps)
    return {"by itself": alone.evaluate(test)["accuracy"], "mean teacher": taught.evaluate(test)["accuracy"]}


if __name__ == "__main__":
    print(train())
