"""What a step returns is computed before its updates, also where TensorFlow forgets that.

A variable is read before it is written, TensorFlow adds a control edge for that: from the read to the update. Grappler
takes it away again where another way leads from the one to the other, and one way does that it cuts later on: through
the shape of a tensor, once that turns out to be a constant. Then an output or a scalar that no gradient needs (the
prediction, where the loss is a residual of its derivatives; a mean that is the loss) may be computed from weights that
the step has updated already: now and then, where the processor has other things to do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainloop import keras_hooks
from trainloop.gradient_sums import Gradient
from trainloop.results import StepResult


def computed_first(
    result: StepResult, gradients: Mapping[str, Sequence[Gradient]]
) -> tuple[StepResult, dict[str, list[Gradient]]]:
    """Returns a result, and gradients that are there only once it is computed; eagerly that is so anyway.

    Args:
      result: What a step returns.
      gradients: What it updates the variables by, for each optimizer.
    """
    if tf.executing_eagerly():
        return result, {key: list(found) for key, found in gradients.items()}
    fields = vars(result)
    leaves = tf.nest.flatten(fields, expand_composites=True)
    tensors = [leaf for leaf in leaves if tf.is_tensor(leaf)]
    # One op for all, whose outputs are what is used: of an op for each TensorFlow would leave nothing.
    computed = iter(tf.identity_n(tensors))
    packed = [next(computed) if tf.is_tensor(leaf) else leaf for leaf in leaves]
    kept = dataclasses.replace(result, **tf.nest.pack_sequence_as(fields, packed, expand_composites=True))
    keras_hooks.give_masks(kept.outputs, result.outputs)
    with tf.control_dependencies([leaf for leaf in packed if tf.is_tensor(leaf)]):
        waiting = {
            key: [None if each is None else _identity(each) for each in found] for key, found in gradients.items()
        }
    return kept, waiting


def _identity(gradient: tf.Tensor | tf.IndexedSlices) -> tf.Tensor | tf.IndexedSlices:
    return tf.nest.map_structure(tf.identity, gradient, expand_composites=True)
