"""What an audited model is called on: a batch, or only what it would look like."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

_TENSORS = (tf.Tensor, tf.RaggedTensor, tf.SparseTensor)
_SPECS = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)


def resolve(inputs: Any, model: Any) -> Any:
    """Returns what a user gave for `inputs` as a nest of tensors, or of tensor specs.

    Args:
      inputs: A nest of arrays or tensors, of `tf.TensorSpec`s; a shape with the batch first, as a `tf.TensorShape` or a
        list or tuple of numbers and None; or None, for what a functional model was built on.
      model: The model.

    Raises:
      TypeError: If it is none of these.
      ValueError: If it is None, and the model does not say what it takes.
    """
    if inputs is None:
        expected = expected_inputs(model)
        if expected is None:
            raise ValueError(
                f"audit: inputs=None, but {name_of(model)} does not say what it takes; pass a batch, or its shape as "
                "(None, 32, 32, 3)"
            )
        return expected
    if isinstance(inputs, (tf.data.Dataset, tf.data.Iterator)) or callable(getattr(inputs, "__next__", None)):
        raise TypeError(f"audit: inputs={inputs!r} is a data set; pass one batch of x: `x, y = next(iter(dataset))`")
    if is_shape(inputs):
        expected = tf.nest.flatten(expected_inputs(model))
        dtype = expected[0].dtype if len(expected) == 1 and expected[0] is not None else tf_keras.backend.floatx()
        return tf.TensorSpec(tf.TensorShape(inputs), dtype)
    leaves = tf.nest.flatten(inputs)
    if any(isinstance(leaf, _SPECS) for leaf in leaves):
        return tf.nest.map_structure(_spec, inputs)
    return tf.nest.map_structure(_tensor, inputs)


def is_concrete(inputs: Any) -> bool:
    """Returns whether there are numbers to compute with."""
    return all(isinstance(leaf, _TENSORS) for leaf in tf.nest.flatten(inputs))


def describe(inputs: Any) -> str:
    """Returns inputs as dtypes and shapes: `float32[8, 28, 28, 1]`."""
    if isinstance(inputs, dict):
        return "{" + ", ".join(f"{key}: {describe(value)}" for key, value in inputs.items()) + "}"
    if isinstance(inputs, (list, tuple)):
        return "(" + ", ".join(map(describe, inputs)) + ")"
    if isinstance(inputs, (*_TENSORS, *_SPECS)):
        shape = "any shape" if inputs.shape.rank is None else ", ".join(map(str, inputs.shape.as_list()))
        return f"{inputs.dtype.name}[{shape}]"
    return repr(inputs)


def expected_inputs(model: Any) -> Any:
    """Returns the specs of what a model was built on, or None where it does not say."""
    inputs = getattr(model, "input", None) if getattr(model, "inputs", None) else None
    return None if inputs is None else tf.nest.map_structure(_spec, inputs)


def expectation(model: Any) -> str:
    """Returns what a model expects, for a message."""
    expected = expected_inputs(model)
    if expected is not None:
        return f"{name_of(model)} was built on {describe(expected)}"
    call = model.call if isinstance(model, tf_keras.layers.Layer) else model
    try:
        return f"{name_of(model)} takes {inspect.signature(call)}"
    except (TypeError, ValueError):
        return f"{name_of(model)} does not say what it takes"


def name_of(model: Any) -> str:
    """Returns what to call a model in a message."""
    return getattr(model, "name", None) or getattr(model, "__name__", None) or type(model).__name__


def is_shape(inputs: Any) -> bool:
    """Returns whether inputs are a shape: numbers of rows, columns and so on, or None."""
    if isinstance(inputs, tf.TensorShape):
        return True
    return (
        isinstance(inputs, (list, tuple))
        and bool(inputs)
        and all(each is None or (isinstance(each, (int, np.integer)) and not isinstance(each, bool)) for each in inputs)
    )


def _spec(leaf: Any) -> Any:
    if isinstance(leaf, _SPECS):
        return leaf
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return tf.type_spec_from_value(leaf)
    type_spec = getattr(leaf, "type_spec", None)  # a symbolic input of Keras
    if type_spec is not None:
        return type_spec
    tensor = _tensor(leaf)
    return tf.TensorSpec(tensor.shape, tensor.dtype)


def _tensor(leaf: Any) -> Any:
    if isinstance(leaf, _TENSORS):
        return leaf
    try:
        return tf.convert_to_tensor(leaf)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"audit: inputs holds {leaf!r}, a {type(leaf).__name__}; expected a batch of arrays or tensors, "
            "tf.TensorSpecs, or a shape such as (None, 32, 32, 3)"
        ) from error
