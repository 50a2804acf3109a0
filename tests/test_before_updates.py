"""What a step returns is that of the weights before its update, however late it is computed."""

from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from trainloop import History, Phase, StepResult, Trainer, data
from trainloop.before_updates import computed_first

X = np.linspace(0, 1, 32, dtype="float32")[:, None]
STEPS = 12


def late(batch: tf.Tensor) -> tf.Tensor:
    """Something that takes longer than all the rest of a step."""
    value = tf.fill([600, 600], tf.reduce_mean(batch))
    for _ in range(4):
        value = tf.matmul(value, value) / 600
    return tf.reduce_sum(value)


class Residual(Trainer):
    """A loss of derivatives, as of a differential equation: no gradient needs the prediction itself."""

    def compute_loss(self, batch: Any, phase: Phase) -> StepResult:
        with tf.GradientTape() as tape:
            tape.watch(batch)
            with tf.control_dependencies([late(batch)]):
                outputs = phase.call(self.model, batch)
        slope = tape.gradient(outputs, batch)
        edge = phase.call(self.model, tf.zeros([1, 1]))
        loss = tf.reduce_mean((slope - 3.0) ** 2) + tf.reduce_mean((edge - 1.0) ** 2)
        return StepResult(loss=loss, outputs=outputs, targets=batch, scalars={"mean": tf.reduce_mean(outputs)})


def fitted(**options: Any) -> History:
    model = tf_keras.Sequential([tf_keras.Input([1]), tf_keras.layers.Dense(1, kernel_initializer="ones")])
    metrics = [tf_keras.metrics.MeanSquaredError("mse")]
    trainer = Residual(model, tf_keras.optimizers.SGD(0.7), metrics=metrics, default_callbacks=False, **options)
    return trainer.fit(data.from_arrays(X, batch_size=len(X), shuffle=False), steps=STEPS)


def test_what_no_gradient_needs_is_computed_before_the_update() -> None:
    compiled, eager = fitted(), fitted(run_eagerly=True)
    for name in ("loss", "mean", "mse"):
        np.testing.assert_allclose(compiled[name], eager[name], rtol=1e-5)


def test_all_kinds_of_results_are_handed_on() -> None:
    """Nests, sparse outputs and sparse gradients, what is no tensor, and masks."""
    masked, mask = tf.ones([2, 3]), tf.constant([True, False])

    @tf.function
    def handed_on() -> Any:
        outputs = {"a": tf.identity(masked), "b": [tf.sparse.from_dense(tf.eye(2)), None]}
        outputs["a"]._keras_mask = mask
        sparse = tf.IndexedSlices(tf.ones([1, 3]), tf.constant([4]), tf.constant([5, 3]))
        result = StepResult(loss=tf.constant(2.0), outputs=outputs, scalars={"n": 7})
        kept, gradients = computed_first(result, {"model": [None, sparse, tf.constant(3.0)]})
        assert kept.scalars == {"n": 7}
        assert kept.weight is None
        assert kept.outputs["b"][1] is None
        assert kept.outputs["a"]._keras_mask is mask
        [nothing, slices, dense] = gradients["model"]
        assert nothing is None
        waits = {op.type for op in dense.op.control_inputs} & {op.type for op in slices.values.op.control_inputs}
        assert waits == {"IdentityN"}
        return (
            kept.loss,
            kept.outputs["a"],
            tf.sparse.to_dense(kept.outputs["b"][0]),
            tf.convert_to_tensor(slices),
            dense,
        )

    loss, dense, sparse, rows, gradient = (value.numpy() for value in handed_on())
    assert (loss, gradient) == (2.0, 3.0)
    np.testing.assert_array_equal(dense, np.ones([2, 3]))
    np.testing.assert_array_equal(sparse, np.eye(2))
    np.testing.assert_array_equal(rows, [[0] * 3] * 4 + [[1] * 3])
