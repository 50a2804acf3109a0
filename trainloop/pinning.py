"""`pin`, `follow`, `unpin`: what a layer does where the phase alone should not decide, or should decide after all.

They hold for the layer object, with and without a `Trainer`, until `unpin`; they are not saved with a model. They set
the mode, never `trainable`. A step that is compiled already is compiled anew where a pin has changed.
"""

from __future__ import annotations

import difflib
import fnmatch
from typing import Any

import tensorflow as tf

from trainloop import guard, keras_hooks
from trainloop.guard import FOLLOW, Pin
from trainloop.keras_hooks import Layer
from trainloop.layer_paths import layer_paths
from trainloop.phase import Phase, check_phase


def pin(layer: Any, phase: Phase, *, match: str | None = None) -> list[str]:
    """Holds a layer or a sub-model, and all in it, in one phase, whatever phase it is called in.

    For what is meant to be so: a frozen base, a teacher. The last pin of a layer counts.

    Args:
      layer: A layer, a model, or a `tf.Module` that holds layers.
      phase: The phase to hold it in: `Phase.EVAL` keeps its dropout off and its batch norm at rest.
      match: Only the layers in it whose path matches, as a shell matches file names: `"block*/bn"`.

    Returns:
      The paths of what was pinned, each with all that is in it.

    Raises:
      TypeError: If `layer` is no layer and holds none, or `phase` is not a `Phase`.
      ValueError: If no path matches.

    Example:
      >>> import tensorflow as tf, tf_keras
      >>> from trainloop import Phase, pin
      >>> base = tf_keras.Sequential([tf_keras.layers.Dropout(0.5)])
      >>> pin(base, Phase.EVAL)
      ['sequential']
      >>> bool(tf.reduce_all(Phase.TRAIN.call(base, tf.ones([100])) == 1.0))
      True
    """
    check_phase(phase, argument="pin: phase")
    return _hold("pin", layer, match, Pin(phase.value, phase.policy))


def follow(layer: Any, *, match: str | None = None) -> list[str]:
    """Makes a layer or a sub-model, and all in it, follow the phase, whatever was hard-wired into its calls.

    For a model that cannot be edited: a `Dropout(0.5)(x, training=True)` baked into a loaded model is on in TRAIN and
    off in EVAL again.

    Args:
      layer: A layer, a model, or a `tf.Module` that holds layers.
      match: Only the layers in it whose path matches: `"block*/dropout"`.

    Returns:
      The paths of what follows now, each with all that is in it.

    Raises:
      TypeError: If `layer` is no layer and holds none.
      ValueError: If no path matches.

    Example:
      >>> import tensorflow as tf, tf_keras
      >>> from trainloop import Phase, follow
      >>> inputs = tf_keras.Input([100])
      >>> always_on = tf_keras.Model(inputs, tf_keras.layers.Dropout(0.5)(inputs, training=True))
      >>> follow(always_on, match="dropout")
      ['dropout']
      >>> bool(tf.reduce_all(Phase.EVAL.call(always_on, tf.ones([1, 100])) == 1.0))
      True
    """
    return _hold("follow", layer, match, FOLLOW)


def unpin(layer: Any, *, match: str | None = None) -> list[str]:
    """Takes back what `pin` or `follow` did to a layer or a sub-model, and all in it.

    A part of something that is still pinned stays held with it: unpin that, or let the part `follow`.

    Args:
      layer: A layer, a model, or a `tf.Module` that holds layers.
      match: Only the layers in it whose path matches.

    Returns:
      The paths of what was meant, each with all that is in it.

    Raises:
      TypeError: If `layer` is no layer and holds none.
      ValueError: If no path matches.

    Example:
      >>> import tf_keras
      >>> from trainloop import Phase, pin, unpin
      >>> base = tf_keras.Sequential([tf_keras.layers.Dropout(0.5)])
      >>> pinned = pin(base, Phase.EVAL)
      >>> unpin(base)
      ['sequential']
    """
    return _hold("unpin", layer, match, None)


def _hold(function: str, root: Any, match: str | None, held: Pin | None) -> list[str]:
    paths = layer_paths(root) if isinstance(root, tf.Module) else {}
    if not paths:
        raise TypeError(
            f"{function}: layer={root!r} is no layer and holds none; pass a tf-keras layer or model, or a tf.Module "
            "with such layers in it"
        )
    if match is not None:
        chosen = {path: layer for path, layer in paths.items() if fnmatch.fnmatchcase(path, match)}
        if not chosen:
            near = difflib.get_close_matches(match, paths, n=5, cutoff=0.0)
            raise ValueError(f"{function}: match={match!r} matches no layer; the nearest paths are {', '.join(near)}")
    elif isinstance(root, Layer):
        chosen = dict([next(iter(paths.items()))])
    else:
        chosen = paths
    for layer in chosen.values():
        for inside in keras_hooks.layers_of(layer):
            guard.hold(inside, held)
    return list(chosen)
