"""What the framework itself costs, in numbers that no machine changes: ops of a step, and calls between two chunks."""

import collections
import contextlib
import pathlib
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.python.autograph.impl import api

from trainloop import Every, Phase, StopOnNaN, Trainer, data

X = np.random.default_rng(0).normal(size=[64, 4]).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
CHUNKS = 20
STEP = "StatefulPartitionedCall"


def made(model: tf_keras.Model | None = None, **options: Any) -> Trainer:
    model = model or tf_keras.Sequential([tf_keras.Input([4]), tf_keras.layers.Dense(3)])
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return Trainer(model, "sgd", loss=loss, metrics=["accuracy"], seed=0, **options)


def endless() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).repeat().batch(8, drop_remainder=True)


def endless_by_function() -> tf.data.Dataset:
    """The same batches, made by a function: they are not taken inline."""
    return endless().map(lambda x, y: (x, y))


def the_loop(trainer: Trainer, phase: Phase) -> tf.Graph:
    """The graph of the inner loop of a phase, as it was traced."""
    [loop] = [loop for loop in trainer._loops.values() if loop.phase is phase]
    [compiled] = loop._loops.values()
    return compiled.graph


def nodes_of_the_body(graph: tf.Graph) -> list[Any]:
    [loop] = [op for op in graph.get_operations() if op.type in ("While", "StatelessWhile")]
    body = next(
        each for each in graph.as_graph_def().library.function if each.signature.name == loop.get_attr("body").name
    )
    return list(body.node_def)


@pytest.mark.parametrize(
    ("source", "taking"),
    [(endless, ["IteratorGetNextSync", "OptionalFromValue"]), (endless_by_function, ["IteratorGetNextAsOptional"])],
)
def test_a_step_in_the_loop_is_little_more_than_the_step(
    source: Callable[[], tf.data.Dataset], taking: list[str]
) -> None:
    """A tiny step takes 50 µs, and each op about one: an op more in the loop is 2 % of its time."""
    trainer = made(default_callbacks=False)
    trainer.fit(source(), steps=3)
    graph = the_loop(trainer, Phase.TRAIN)
    [loop] = [op for op in graph.get_operations() if op.type == "While"]
    carried = [each for each in loop.inputs if each.dtype is not tf.resource and each.dtype is not tf.variant]
    # TensorFlow's counter and its bound, the steps that are done and those that are to be done.
    assert len(carried) == 4
    asked = [op.type for op in graph.get_operations() if re.search("If$|^Iterator|^Optional", op.type)]
    assert asked == taking, "the first batch is taken without a condition, which takes time to trace"
    # On a GPU, too, TensorFlow keeps such numbers in the memory of the host, where the loop is led.
    assert {each.dtype for each in carried} == {tf.int32}
    ops = collections.Counter(node.op for node in nodes_of_the_body(graph))
    ours = {
        "OptionalGetValue": 1,
        STEP: 1,
        "ReadVariableOp": 2,
        "AssignAddVariableOp": 2,
        "Pad": 1,
        "Less": 1,
        "If": 1,
    }
    assert {kind: ops[kind] for kind in ours} == ours
    glue = {"Const", "Identity", "NoOp", "AddV2"}
    assert not set(ops) - set(ours) - glue
    assert ops["AddV2"] == 2  # TensorFlow's counter and ours


@pytest.mark.parametrize("source", [endless, endless_by_function])
def test_the_next_batch_is_taken_while_the_step_runs(source: Callable[[], tf.data.Dataset]) -> None:
    trainer = made(default_callbacks=False, callbacks=[StopOnNaN()])
    trainer.fit(source(), steps=3)
    nodes = {node.name: node for node in nodes_of_the_body(the_loop(trainer, Phase.TRAIN))}
    [taking], [step] = ([name for name, node in nodes.items() if node.op == op] for op in ("If", STEP))
    assert step not in needed_by(taking, nodes)
    assert taking not in needed_by(step, nodes)


def test_a_batch_is_copied_to_another_device_while_the_step_before_it_runs() -> None:
    """A second CPU stands in for a GPU, as far as what is placed where and what waits for what."""
    source = endless()
    with tf.device("CPU:1"):
        trainer = made(default_callbacks=False, callbacks=[StopOnNaN()])
        trainer.fit(source, steps=3)
    nodes = {node.name: node for node in nodes_of_the_body(the_loop(trainer, Phase.TRAIN))}
    [taking], [step], [batch] = (
        [name for name, node in nodes.items() if node.op == op] for op in ("If", STEP, "OptionalGetValue")
    )
    [copying] = [name for name in copies(nodes.values()) if taking in needed_by(name, nodes)]
    assert step not in needed_by(copying, nodes)
    assert copying not in needed_by(step, nodes)
    assert [nodes[name].device[-5:] for name in (copying, taking)] == ["CPU:1", "CPU:0"]
    [on_device] = nodes[batch].input
    assert nodes[on_device.partition(":")[0]].device.endswith("CPU:1")


def test_no_batch_is_copied_where_it_is_read_or_where_replicas_take_their_parts(
    two_replicas: tf.distribute.MirroredStrategy,
) -> None:
    for scope in (contextlib.nullcontext(), two_replicas.scope()):
        with scope:
            trainer = made(default_callbacks=False)
        trainer.fit(endless(), steps=3)
        assert copies(nodes_of_the_body(the_loop(trainer, Phase.TRAIN))) == []


def copies(nodes: Iterable[Any]) -> list[str]:
    """The nodes of a loop that bring a batch to a device."""
    variant = tf.variant.as_datatype_enum
    identities = [node for node in nodes if node.op == "Identity" and node.attr["T"].type == variant]
    return [node.name for node in identities if node.device and not node.device.endswith("CPU:0")]


def needed_by(name: str, nodes: dict[str, Any]) -> set[str]:
    """The nodes that have to have run before this one does."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for each in nodes[waiting.pop()].input:
            source = each.lstrip("^").partition(":")[0]
            if source in nodes and source not in found:
                found.add(source)
                waiting.append(source)
    return found


class Branching(tf_keras.Model):
    """A model that AutoGraph has to convert."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = tf_keras.layers.Dense(3)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        if tf.reduce_sum(x) > 0.0:
            return self.dense(x)
        return -self.dense(x)


def test_autograph_converts_what_is_the_users_and_nothing_of_ours() -> None:
    """To convert a function takes AutoGraph as long as it takes to trace a layer or two."""
    with mock.patch.object(api, "_convert_actual", wraps=api._convert_actual) as converting:
        made(Branching(), default_callbacks=False).fit(endless(), steps=1)
    assert {call.args[0].__code__ for call in converting.call_args_list} == {Branching.call.__code__}


def calls_of(trainer: Trainer, source: Any, steps: int) -> collections.Counter[str]:
    """What is called while a fit goes on: functions of Python, ops, and values that cross to the host."""
    found: collections.Counter[str] = collections.Counter()
    names = {"TFE_Py_FastPathExecute": "ops", "TFE_Py_Execute": "ops", "_numpy_internal": "values"}

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            found["python"] += 1
        elif event == "c_call":
            found[names.get(argument.__name__, "other")] += 1

    sys.setprofile(note)
    try:
        trainer.fit(source, steps=steps)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize(("in_epochs", "ops"), [(False, 10), (True, 12)])
def test_calls_between_two_chunks(in_epochs: bool, ops: int, everything: bool, tmp_path: pathlib.Path) -> None:
    """Measured as the difference of a longer and a shorter run, each chunk with a report."""
    workdir = tmp_path / "run" if everything else None
    trainer = made(default_callbacks=everything, workdir=workdir, report_every=None if in_epochs else Every(steps=2))
    total, found = 0, []
    for chunks in (CHUNKS, CHUNKS, 2 * CHUNKS):
        total += 2 * chunks
        source = data.from_arrays((X, Y), batch_size=len(X) // 2) if in_epochs else endless()
        found.append(calls_of(trainer, source, total))
    each = {kind: (found[2][kind] - found[1][kind]) / CHUNKS for kind in ("python", "ops", "values")}
    # The loop itself, metrics and window read and begun anew, the learning rate; the counters of an epoch that begins.
    assert 5 < each["ops"] <= ops
    assert 0 < each["values"] <= 5
    assert each["python"] < 1850  # most of them are TensorFlow's and Keras's


def torn(after: int) -> data.ResumedDataset:
    """Batches of which all but the first ones cannot be had."""
    marks = tf.data.Dataset.range(64).map(
        lambda n: tf.debugging.check_numerics(tf.where(n < after, 1.0, np.nan), "torn")
    )
    batches = tf.data.Dataset.zip((endless(), marks)).map(lambda batch, mark: batch)
    return data.from_dataset(batches.repeat(), resume="epoch")


def test_python_knows_how_far_a_chunk_came_that_was_left_in_the_middle() -> None:
    trainer = made(default_callbacks=False, report_every=Every(steps=100))
    with pytest.raises(tf.errors.InvalidArgumentError, match="torn"):
        trainer.fit(torn(after=5), steps=100)
    assert trainer.step == int(trainer.state.step)
    assert trainer.step in (4, 5)  # the sixth batch cannot be had, and is taken while the fifth step runs


def test_whoever_goes_on_after_half_a_step_is_told(tmp_path: pathlib.Path) -> None:
    trainer = made(workdir=tmp_path / "run")
    trainer.fit(endless(), steps=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="torn"):
        trainer.fit(torn(after=0), steps=4)
    trainer.restore("latest")
    trainer.fit(endless(), steps=3)  # a warning would be an error
    with pytest.raises(tf.errors.InvalidArgumentError, match="torn"):
        trainer.fit(torn(after=0), steps=4)
    wide = data.from_arrays((np.ones([8, 7]), np.ones([8])), batch_size=4)
    with pytest.raises(ValueError, match="eval_data"), pytest.warns(UserWarning, match="in the middle of a step"):
        trainer.fit(endless(), steps=4, eval_data=wide)  # which is refused, and has not used the warning up
    with pytest.warns(UserWarning, match=r"in the middle of a step.*trainer\.restore"):
        trainer.fit(endless(), steps=4)
