"""What each phase allows: the policy table and the layer families. No TensorFlow here."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Family = Literal["dropout", "noise", "augmentation", "batch_norm", "update"]
Statistics = Literal["batch", "moving"]
Write = Literal["weights", "batch_norm", "metrics"]


class Policy(NamedTuple):
    """What the layers of a model do in one phase, and what a step of it may write.

    Attributes:
      training: The value that `training=` takes at every layer without a family.
      dropout: Whether units are dropped (dropout of every kind, stochastic depth, attention dropout).
      noise: Whether noise layers add noise.
      augmentation: Whether random augmentation (`Random*` layers, `augment_fn`) is applied.
      batch_norm: Which statistics batch normalization uses: the batch's, or the moving ones.
      writes: The kinds of variables that a step may write.
    """

    training: bool
    dropout: bool
    noise: bool
    augmentation: bool
    batch_norm: Statistics
    writes: frozenset[Write]

    @property
    def is_uniform(self) -> bool:
        """Whether one boolean says it all: every family follows `training`."""
        return all(self.training_for(family) == self.training for family in get_args(Family))

    def training_for(self, family: Family | None) -> bool:
        """Returns the `training=` value for a layer of this family (None: a layer without one)."""
        if family is None:
            return self.training
        if family == "batch_norm":
            return self.batch_norm == "batch"
        if family == "update":
            return "weights" in self.writes
        return getattr(self, family)


TRAIN = Policy(True, True, True, True, "batch", frozenset({"weights", "batch_norm", "metrics"}))
EVAL = Policy(False, False, False, False, "moving", frozenset({"metrics"}))
PREDICT = Policy(False, False, False, False, "moving", frozenset())
MC_PREDICT = Policy(True, True, True, False, "moving", frozenset({"metrics"}))
UPDATE_BN = Policy(True, False, False, True, "batch", frozenset({"batch_norm"}))

_FAMILIES: dict[type, Family] = {}


def register_family(layer_class: type, family: Family) -> None:
    """Says which family the layers of a class belong to, so that phases treat them as they treat that family.

    Args:
      layer_class: A layer class; its subclasses follow it unless they are registered themselves.
      family: `"dropout"`, `"noise"`, `"augmentation"`, `"batch_norm"`, or `"update"` for a layer that updates its own
        weights or state as it trains (a spectral normalization, a codebook of running means): on in TRAIN alone.

    Raises:
      TypeError: If `layer_class` is not a class.
      ValueError: If `family` is none of these.

    Example:
      >>> import trainloop
      >>> class DropPath: ...
      >>> trainloop.register_family(DropPath, "dropout")
    """
    if not isinstance(layer_class, type):
        raise TypeError(
            f"register_family: layer_class={layer_class!r} must be a class; pass the class, not an instance"
        )
    if family not in get_args(Family):
        raise ValueError(
            f"register_family: family={family!r} is unknown; it must be one of {', '.join(get_args(Family))}"
        )
    _FAMILIES[layer_class] = family


def registered_classes() -> list[type]:
    """Returns the classes that were registered so far."""
    return list(_FAMILIES)


def registered_family(layer_class: type) -> Family | None:
    """Returns the family of the nearest registered class in the method resolution order, or None."""
    return next((_FAMILIES[base] for base in layer_class.__mro__ if base in _FAMILIES), None)
