"""`waive`: accepting effects of a model that is somebody else's, with the reason, in every report."""

from __future__ import annotations

import difflib
import fnmatch
import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import tensorflow as tf

_KINDS = ("random", "write", "unknown")


class Waiver(NamedTuple):
    """An accepted effect.

    Attributes:
      pattern: The kind of the effect and where it is, as a shell matches file names: `"random encoder/*"`.
      reason: Why it is accepted.
    """

    pattern: str
    reason: str

    def matches(self, label: str) -> bool:
        """Returns whether it accepts an effect, named by kind and path or op type (`"write bn/moving_mean"`)."""
        return fnmatch.fnmatchcase(label, self.pattern)


_waivers: weakref.WeakKeyDictionary[Any, list[Waiver]] = weakref.WeakKeyDictionary()


def waive(model: Any, effect_pattern: str, *, reason: str) -> None:
    """Accepts effects of a model which its phase does not allow, or of which nothing is known.

    It holds for the model object, with and without a `Trainer`; every report shows it with its reason. A waiver that
    comes to match nothing, neither an effect nor a layer or variable of the model, is an error.

    Args:
      model: The model, or the part of one, that has the effects.
      effect_pattern: Which ones, matched as a shell matches file names: `"random <path of a layer>"`,
        `"write <path of a variable>"` or `"unknown <type of an op>"`. Where a draw is in no layer, the scope
        of its op stands for the path: `"random random_normal"`.
      reason: Why they are right; for the reader of a report.

    Raises:
      TypeError: If `model` is no object that holds layers or variables.
      ValueError: If the pattern is not of one of the three forms, its op type does not exist, or no reason is given.

    Example:
      >>> import tensorflow as tf, tf_keras, trainloop
      >>> from trainloop import Phase
      >>> model = tf_keras.Sequential([tf_keras.layers.Lambda(lambda x: tf.nn.dropout(x, 0.5), name="hash")])
      >>> trainloop.waive(model, "random hash", reason="the published model is sampled so")
      >>> trainloop.contract(model, Phase.EVAL, tf.ones([2, 3])).verdict
      'holds'
    """
    if not isinstance(model, tf.Module) and not hasattr(model, "_trackable_children"):
        raise TypeError(f"waive: model={model!r} holds no layers or variables; pass the model that has the effect")
    kind, _, where = str(effect_pattern).partition(" ")
    if kind not in _KINDS or not where.strip():
        raise ValueError(
            f"waive: effect_pattern={effect_pattern!r} is not 'random <layer path>', 'write <variable path>' or "
            "'unknown <op type>'; write it as the report does"
        )
    if kind == "unknown" and not fnmatch.filter(dir(tf.raw_ops), where):
        near = difflib.get_close_matches(where, dir(tf.raw_ops), n=3)
        raise ValueError(
            f"waive: effect_pattern={effect_pattern!r} names no type of op; near it are {', '.join(near) or 'none'}"
        )
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"waive: reason={reason!r} says nothing; say why the effect is right")
    accepted = _waivers.setdefault(model, [])
    if (waiver := Waiver(effect_pattern, reason)) not in accepted:
        accepted.append(waiver)


def any_waivers() -> bool:
    """Returns whether anything was accepted of any model."""
    return bool(_waivers)


def waivers_of(model: Any) -> list[Waiver]:
    """Returns what was accepted of a model, or of a part of one."""
    try:
        return list(_waivers.get(model, ()))
    except TypeError:  # a list or a dict
        return []


def check_used(waiver: Waiver, labels: Iterable[str]) -> None:
    """Refuses a waiver that nothing could ever be accepted by.

    Args:
      waiver: The waiver.
      labels: All effects there are, and those that the layers and variables of its model could have.

    Raises:
      ValueError: If it matches none of them.
    """
    labels = list(dict.fromkeys(labels))
    if waiver.pattern.startswith("unknown ") or any(map(waiver.matches, labels)):
        return
    near = difflib.get_close_matches(waiver.pattern, labels, n=5, cutoff=0.0)
    raise ValueError(
        f"waive: effect_pattern={waiver.pattern!r} matches no effect, layer or variable of its model; the nearest are "
        f"{', '.join(map(repr, near)) or 'none: it has no layers and variables'}"
    )
