"""A Wasserstein GAN with gradient penalty (Gulrajani et al. 2017): two models, two tapes, six updates a step.

    python recipes/gan.py

Takes 9 seconds of one CPU core. The energy distance to test digits falls from 3.0 to 0.026; that of other real digits
is 0.013 (seed 0).

While one of the two learns, the other is in EVAL: `Phase.EVAL.call` inside the TRAIN step wins. The generator's batch
norm statistics are moved once a step, by the one pass in which the generator learns, and not six times; so the critic
sees what the generator will put out, and not, as in the paper, what it puts out while it learns.
"""

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import Phase, Trainer, data, random
from trainloop.tasks import digits

layers = tf_keras.layers
NOISE = 16


class WGAN(Trainer):
    def critic_loss(self, real, phase):
        critic, rows = self.model["critic"], tf.shape(real)[0]
        fake = Phase.EVAL.call(self.model["generator"], random.normal([rows, NOISE]))
        mix = random.uniform([rows, 1])
        between = mix * real + (1 - mix) * fake
        with tf.GradientTape() as tape:
            tape.watch(between)
            score = phase.call(critic, between)
        slope = tf.sqrt(tf.reduce_sum(tf.square(tape.gradient(score, between)), axis=1) + 1e-12)  # has a gradient at 0
        penalty = tf.reduce_mean(tf.square(slope - 1.0))
        distance = tf.reduce_mean(phase.call(critic, real)) - tf.reduce_mean(phase.call(critic, fake))
        return 10.0 * penalty - distance, {"distance": distance, "penalty": penalty}

    def train_step(self, batch, phase):
        for _ in range(5):
            with tf.GradientTape() as tape:
                loss, scalars = self.critic_loss(batch, phase)
            self.apply_gradients(self.gradients(tape, loss, "critic"), "critic")
        with tf.GradientTape() as tape:
            fake = phase.call(self.model["generator"], random.normal([tf.shape(batch)[0], NOISE]))
            loss = -tf.reduce_mean(Phase.EVAL.call(self.model["critic"], fake))
        self.apply_gradients(self.gradients(tape, loss, "generator"), "generator")
        return scalars

    def eval_step(self, batch, phase):
        return self.critic_loss(batch, phase)[1]

    def predict_step(self, batch, phase):
        return phase.call(self.model["generator"], batch)


def energy_distance(a, b):
    """How far two samples are from one distribution (Szekely and Rizzo 2013): 0 where they are of the same one."""

    def between(one, other):
        return np.linalg.norm(one[:, np.newaxis] - other, axis=-1).mean()

    return float(2 * between(a, b) - between(a, a) - between(b, b))


def train(steps: int = 1000, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    real, test = sets.train[0].reshape(-1, 64), sets.test[0].reshape(-1, 64)
    hidden = [layers.Dense(128), layers.BatchNormalization(momentum=0.9), layers.ReLU()]
    generator = tf_keras.Sequential([tf_keras.Input([NOISE]), *hidden, layers.Dense(64, "sigmoid")])
    critic = tf_keras.Sequential(
        [tf_keras.Input([64]), *(layers.Dense(128, "relu") for _ in range(2)), layers.Dense(1)]
    )
    adam = tf_keras.optimizers.Adam
    optimizers = {"generator": adam(5e-4, 0.5, 0.9), "critic": adam(5e-4, 0.5, 0.9)}
    trainer = WGAN({"generator": generator, "critic": critic}, optimizers, seed=seed)
    noise = data.from_arrays(np.random.default_rng(seed).normal(size=[360, NOISE]).astype("float32"), batch_size=60)
    before = energy_distance(trainer.predict(noise), test)
    trainer.fit(data.from_arrays(real, batch_size=64), steps=steps)
    after = energy_distance(trainer.predict(noise), test)
    return {"distance before": before, "after": after, "of real digits": energy_distance(real[:360], test)}


if __name__ == "__main__":
    print(train())
