"""Transfer learning: a base that was trained to tell digits serves to tell odd from even, of which few are labelled.

    python recipes/transfer.py

Takes 8 seconds of one CPU core and ends at 0.931 test accuracy; from scratch at 0.894 (seed 0).

`base.trainable = False` holds the weights and the batch norm of the base, and not its dropout, which stays on in TRAIN:
`pin(base, Phase.PREDICT)` holds its phase. The second stage frees both, at a lower learning rate, in the same run.
"""

import tf_keras

from trainloop import Phase, Trainer, data, pin, unpin
from trainloop.tasks import digits

layers = tf_keras.layers
FEW = 40


class FineTuner(Trainer):
    def fit_in_stages(self, base, pairs, head_steps, steps):
        """Trains the head on a base that stands still, then both."""
        base.trainable = False
        pin(base, Phase.PREDICT)
        self.fit(pairs, steps=head_steps)
        base.trainable = True
        unpin(base)
        self.optimizer.learning_rate = 1e-4
        return self.fit(pairs, steps=steps)


def new_base() -> tf_keras.Model:
    hidden = [layers.Conv2D(16, 3, activation="relu"), layers.BatchNormalization(momentum=0.9), layers.Flatten()]
    return tf_keras.Sequential(
        [tf_keras.Input([8, 8, 1]), *hidden, layers.Dense(64, "relu"), layers.Dropout(0.3)], name="base"
    )


def train(steps: int = 400, seed: int = 0) -> dict[str, float]:
    tf_keras.utils.set_random_seed(seed)
    sets = digits.load()
    few = data.from_arrays((sets.train[0][:FEW], sets.train[1][:FEW] % 2), batch_size=20)
    test = data.from_arrays((sets.test[0], sets.test[1] % 2), batch_size=64)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def trainer(kind, base, classes):
        model = tf_keras.Sequential([base, layers.Dense(classes)])
        return kind(model, tf_keras.optimizers.Adam(3e-3), loss=loss, metrics=["accuracy"], seed=seed)

    base = new_base()
    trainer(Trainer, base, digits.CLASSES).fit(data.from_arrays(sets.train, batch_size=64), steps=steps)
    transferred = trainer(FineTuner, base, 2)
    transferred.fit_in_stages(base, few, head_steps=steps // 2, steps=steps)
    scratch = trainer(Trainer, new_base(), 2)
    scratch.fit(few, steps=steps)
    return {"from scratch": scratch.evaluate(test)["accuracy"], "transferred": transferred.evaluate(test)["accuracy"]}


if __name__ == "__main__":
    print(train())
