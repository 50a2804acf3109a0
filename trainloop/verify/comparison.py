"""Comparing runs bit by bit: their state, each thing by its name, and their logs."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
import pathlib
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainloop.workdir import Workdir

if TYPE_CHECKING:
    import tensorflow as tf

    from trainloop.trainer import Trainer

State = dict[str, np.ndarray]
UNSAVED = " (in no checkpoint)"

# How long the log was is a matter of how many digits a time happened to have.
_MACHINE = ("log_size",)


@dataclasses.dataclass(frozen=True)
class Difference:
    """One thing that is not the same in two runs.

    Attributes:
      name: Its name: `model/dense/kernel`, `optimizer/m/dense/kernel`, `host/seed`, or a line of `metrics.jsonl`.
      how: In what way: shapes, the number of values that differ and by how much, or both values.
    """

    name: str
    how: str

    def __str__(self) -> str:
        return f"{self.name} {self.how}"


def state_of(trainer: Trainer) -> State:
    """Returns everything that a checkpoint of a run holds, and what of its models is in none, by name.

    Weights and statistics go by their path in the model, so names are the same in every process. An iterator of
    `tf.data` is left out: its bytes say how far it happens to have read ahead. What it gives next shows in the weights.

    Args:
      trainer: The Trainer, its variables made: within `fit`, or after it.

    Returns:
      Arrays by name; strings and what lives in Python as arrays without a dimension.
    """
    import tensorflow as tf  # here, so that a program which only compares needs no TensorFlow

    from trainloop import keras_hooks

    names = _names(trainer)
    state: State = {}
    queue: collections.deque[tuple[str, Any]] = collections.deque([("", trainer.state.checkpoint)])
    view, seen = tf.train.TrackableView(trainer.state.checkpoint), set()
    while queue:
        path, found = queue.popleft()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, tf.Variable):
            _put(state, names.get(id(found), path), trainer.strategy, found)
        elif isinstance(found, tf.train.experimental.PythonState):
            state |= _in_python(path, found.serialize())
        elif isinstance(found, tf.lookup.experimental.MutableHashTable):
            keys, values = (each.numpy() for each in found.export())
            order = np.argsort(keys, kind="stable")
            state |= {f"{path}/keys": keys[order], f"{path}/values": values[order]}
        else:
            queue.extend((f"{path}/{name}" if path else name, child) for name, child in view.children(found).items())
    for model in trainer.models.values():
        for variable in keras_hooks.variables_of(model):
            if id(variable) not in seen:
                _put(state, names[id(variable)] + UNSAVED, trainer.strategy, variable)
    parts = list(dict.fromkeys(map(part_of, state)))
    parts.sort(key="host".__eq__)  # last, because it has the newest metrics too, which follow from all the rest
    return dict(sorted(state.items(), key=lambda item: parts.index(part_of(item[0]))))


def part_of(name: str) -> str:
    """Returns what a name of a state begins with: `model`, `optimizer`, `step`."""
    return name.partition("/")[0]


def differences(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> list[Difference]:
    """Returns what is not the same to the bit in two states, in the order of the first.

    Args:
      expected: The state of the run that was not stopped.
      found: The other one.

    Example:
      >>> differences({"step": np.array(3), "rate": np.array([1.0, 2.0])}, {"step": np.array(3), "rate": np.ones(2)})
      [Difference(name='rate', how='differs in 1 of 2 values, by at most 1')]
    """
    compared = ((name, _how(expected[name], found[name])) for name in expected if name in found)
    return [
        *(Difference(name, how) for name, how in compared if how is not None),
        *(Difference(name, "is missing") for name in expected if name not in found),
        *(Difference(name, "is there and should not be") for name in found if name not in expected),
    ]


def digest(state: Mapping[str, np.ndarray]) -> str:
    """Returns the sha256 of a state: of all names, types, shapes and bits.

    Example:
      >>> digest({"step": np.array(3)}) == digest({"step": np.array(3)}) != digest({"step": np.array(4)})
      True
    """
    total = hashlib.sha256()
    for name, value in state.items():
        total.update(f"{name} {value.dtype} {value.shape} ".encode())
        total.update(_bits(value))
    return total.hexdigest()


def log_of(workdir: Workdir) -> list[dict[str, Any]]:
    """Returns the lines of a workdir's `metrics.jsonl` without what depends on the machine: times and rates."""
    if not workdir.metrics.exists():
        return []
    records = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    for record in records:
        record.pop("time", None)
        metrics = record.get("metrics", {})
        record["metrics"] = {name: value for name, value in metrics.items() if not name.endswith("_per_second")}
    return records


def log_differences(expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Returns where two logs differ, line by line.

    Example:
      >>> one, other = ({"step": 4, "phase": "train", "metrics": {"loss": loss}} for loss in (0.5, 0.25))
      >>> print(*log_differences([one], [other]))
      metrics.jsonl line 1 (train, step 4): loss is 0.25 instead of 0.5
    """
    told: list[Difference] = []
    for number, (one, other) in enumerate(itertools.zip_longest(expected, found), start=1):
        record = other if one is None else one
        name = f"metrics.jsonl line {number} ({record.get('phase', 'no phase')}, step {record.get('step', 'none')})"
        if one is None or other is None:
            told.append(Difference(name, "is missing" if other is None else "is there and should not be"))
            continue
        mine, theirs = ({**each, **each.get("metrics", {})} for each in (one, other))
        for key in [key for key in {**mine, **theirs} if key != "metrics"]:
            a, b = (json.dumps(each[key]) if key in each else "nothing" for each in (mine, theirs))
            if a != b:
                told.append(Difference(f"{name}: {key}", f"is {b} instead of {a}"))
    return told


def leave(path: pathlib.Path, value: Any) -> None:
    """Writes a state, or what else another process of one's own is to `take`."""
    with open(path, "wb") as file:
        pickle.dump(value, file)


def take(path: pathlib.Path) -> Any:
    """Returns what `leave` wrote."""
    with open(path, "rb") as file:
        return pickle.load(file)


def _names(trainer: Trainer) -> dict[int, str]:
    """Returns the names of the variables of models and optimizers, by the variables' ids."""
    from trainloop.keras_hooks import variables_of
    from trainloop.variables import Variables, handles, variables_held_by

    paths = Variables()
    names: dict[int, str] = {}
    by_keras: dict[str, str] = {}
    paths.add_model(trainer.model)
    for model in trainer.models.values():
        for variable in (*variables_held_by(model), *variables_of(model)):
            named = paths.of(handles(variable)[0])
            if named is not None:
                names[id(variable)] = f"model/{named.path}"
                by_keras.setdefault(variable.name.split(":")[0], named.path)
    for key, optimizer in trainer.optimizers.items():
        prefix = "optimizer/" if len(trainer.optimizers) == 1 else f"optimizer/{key}/"
        for variable in variables_held_by(optimizer):
            if id(variable) not in names:
                names[id(variable)] = prefix + _slot_name(variable.name.split(":")[0], by_keras)
    return names


def _slot_name(name: str, paths: Mapping[str, str]) -> str:
    """Returns `Adam/m/encoder/dense/kernel` for Keras's `Adam/m/dense_17/kernel`."""
    slot, _, rest = name.partition("/")
    while rest:
        if rest in paths:
            return f"{slot}/{paths[rest]}"
        head, _, rest = rest.partition("/")
        slot = f"{slot}/{head}"
    return name


def _put(state: State, name: str, strategy: tf.distribute.Strategy, variable: tf.Variable) -> None:
    """Adds the value of a variable; where each replica has a part of its own, each part."""
    parts = strategy.experimental_local_results(variable)
    for replica, part in enumerate(parts):
        own = f"{name} (replica {replica})" if len(parts) > 1 else name
        numbered = (f"{own} ({number})" for number in itertools.count(2))
        while own in state:  # two variables that their user gave one name
            own = next(numbered)
        state[own] = np.array(part.numpy())


def _in_python(path: str, text: str | bytes) -> State:
    """Returns what a checkpoint keeps for Python: entry by entry where it is JSON, as the Trainer's own part is."""
    try:
        entries = dict(_entries(json.loads(text), path))
    except ValueError:
        return {path: np.array(text)}
    return {key: np.array(json.dumps(value)) for key, value in entries.items() if key.split("/")[-1] not in _MACHINE}


def _entries(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yields what nested dicts hold, by path."""
    if isinstance(value, Mapping) and value:
        for key, each in value.items():
            yield from _entries(each, f"{path}/{key}")
    else:
        yield path, value


def _how(expected: np.ndarray, found: np.ndarray) -> str | None:
    """Returns in what way an array is not the other one, or None."""
    if expected.dtype.kind == "U" and found.dtype.kind == "U":
        return None if expected == found else f"is {found} instead of {expected}"
    if expected.shape != found.shape:
        return f"has the shape {found.shape} instead of {expected.shape}"
    if expected.dtype != found.dtype:
        return f"has the type {found.dtype} instead of {expected.dtype}"
    if _bits(expected) == _bits(found):
        return None
    if expected.ndim == 0:
        return f"is {found[()]!s} instead of {expected[()]!s}"
    if expected.dtype.kind in "OSU":
        return f"differs in {(expected != found).sum()} of {expected.size} values"
    differing = (_bytes_of(expected) != _bytes_of(found)).any(axis=1)
    how = f"differs in {differing.sum()} of {differing.size} values"
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(expected.astype(np.float64) - found.astype(np.float64)).ravel()[differing]
    return f"{how}, by at most {distance.max():.3g}"


def _bits(value: Any) -> bytes:
    return repr(value.tolist()).encode() if value.dtype == object else value.tobytes()


def _bytes_of(value: np.ndarray) -> np.ndarray:
    """Returns the bytes of each value: uint8, shape `[values, bytes]`; a NaN is equal to itself there."""
    return np.ascontiguousarray(value).reshape(-1, 1).view(np.uint8)
