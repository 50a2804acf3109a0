"""A small causal transformer that reads Python's own documentation, character by character.

    python recipes/transformer.py

Takes 36 seconds of one CPU core and ends at 1.71 nats per held-out character, 51% of the next ones right (seed 0).

`weight=` is the number of characters: a loss is the mean over what was predicted, whatever the batches look like. The
dropout in and after the attention is on in TRAIN alone, with no `training=` to hand down.
"""

import pydoc_data.topics

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import StepResult, Trainer, data

layers = tf_keras.layers
LENGTH, WIDTH = 64, 64
LETTERS = 128  # ASCII


class LanguageModel(Trainer):
    def compute_loss(self, batch, phase):
        inputs, targets = batch[:, :-1], batch[:, 1:]
        logits = phase.call(self.model, inputs)
        nats = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        return StepResult(
            loss=tf.reduce_mean(nats), outputs=logits, targets=targets, weight=tf.cast(tf.size(nats), tf.float32)
        )


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(4, WIDTH // 4, dropout=0.1)
        self.dense = tf_keras.Sequential([layers.Dense(4 * WIDTH, "gelu"), layers.Dense(WIDTH), layers.Dropout(0.1)])
        self.norms = [layers.LayerNormalization() for _ in range(2)]

    def call(self, x):
        normed = self.norms[0](x)
        x = x + self.attention(normed, normed, use_causal_mask=True)
        return x + self.dense(self.norms[1](x))


class Transformer(tf_keras.Model):
    def __init__(self, depth: int):
        super().__init__()
        self.letters, self.places = layers.Embedding(LETTERS, WIDTH), layers.Embedding(LENGTH, WIDTH)
        self.blocks = [Block() for _ in range(depth)]
        self.logits = tf_keras.Sequential([layers.LayerNormalization(), layers.Dense(LETTERS)])

    def call(self, text):
        x = self.letters(text) + self.places(tf.range(tf.shape(text)[1]))
        for block in self.blocks:
            x = block(x)
        return self.logits(x)


def train(steps: int = 600, depth: int = 2, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    text = "\n".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore")
    letters = np.frombuffer(text, np.uint8)[: len(text) // LENGTH * LENGTH].astype("int32").reshape(-1, LENGTH)
    held_out, rows = letters[:500], letters[500:]
    trainer = LanguageModel(Transformer(depth), tf_keras.optimizers.Adam(2e-3), metrics=["accuracy"], seed=seed)
    trainer.fit(data.from_arrays(rows, batch_size=32), steps=steps)
    scores = trainer.evaluate(data.from_arrays(held_out, batch_size=100))
    return {"nats per character": scores["loss"], "next character right": scores["accuracy"]}


if __name__ == "__main__":
    print(train())
