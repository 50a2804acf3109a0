"""A snapshot: the files that TensorFlow would have written at that moment, whatever has changed since."""

import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

from trainloop.snapshot import CannotCopy, Snapshot
from trainloop.state import HostState


def contents(prefix: pathlib.Path) -> tuple[Any, dict[str, Any]]:
    """Returns what a checkpoint says of the objects in it, and each value by its key."""
    reader = tf.train.load_checkpoint(str(prefix))
    values = dict.fromkeys(reader.get_variable_to_shape_map())
    types = reader.get_variable_to_dtype_map()
    graph = TrackableObjectGraph.FromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    for node in graph.nodes:
        for attribute in node.attributes:
            attribute.ClearField("full_name")  # by which TensorFlow 1 would find it
    for key in values:
        if types[key] != tf.variant and key != "_CHECKPOINTABLE_OBJECT_GRAPH":
            values[key] = np.asarray(reader.get_tensor(key)).tolist()
    return graph, values


def assert_same(tmp_path: pathlib.Path, checkpoint: tf.train.Checkpoint, change: Callable[[], object]) -> None:
    checkpoint.write(str(tmp_path / "whole"))
    snapshot = Snapshot(checkpoint)
    change()
    snapshot.write(str(tmp_path / "snapshot"))
    expected, written = contents(tmp_path / "whole"), contents(tmp_path / "snapshot")
    assert written == expected
    checkpoint.write(str(tmp_path / "later"))
    assert contents(tmp_path / "later") != expected, "the test changes nothing"


def network() -> tf_keras.Model:
    shared = tf_keras.layers.Dense(3)
    inputs = tf_keras.Input([3])
    x = tf_keras.layers.BatchNormalization()(shared(shared(inputs)))
    return tf_keras.Model(inputs, tf_keras.layers.Dense(1, dtype="float32")(x))


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_a_model_with_all_that_belongs_to_it(tmp_path: pathlib.Path, precision: str) -> None:
    before = tf_keras.mixed_precision.global_policy()
    tf_keras.mixed_precision.set_global_policy(precision)
    try:
        model = network()
    finally:
        tf_keras.mixed_precision.set_global_policy(before)
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(tf_keras.optimizers.Adam(0.1))
    optimizer.build(model.trainable_variables)
    metrics = [tf_keras.metrics.Mean(), tf_keras.metrics.AUC()]
    python = {"reports": 1}
    host = HostState(lambda: python, python.update)
    checkpoint = tf.train.Checkpoint(
        model={"a": model}, optimizer=optimizer, metrics=metrics, host=host, averages=tf.Module()
    )

    def train() -> None:
        with tf.GradientTape() as tape:
            loss = optimizer.get_scaled_loss(tf.reduce_sum(model(tf.ones([4, 3]), training=True)))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        metrics[0].update_state(3.0)
        python["reports"] = 2

    assert_same(tmp_path, checkpoint, train)


def test_variables_of_replicas(tmp_path: pathlib.Path, two_replicas: tf.distribute.MirroredStrategy) -> None:
    with two_replicas.scope():
        model = network()
        on_read = tf.VariableSynchronization.ON_READ
        sums = [
            tf.Variable(0.0, synchronization=on_read, aggregation=aggregation, trainable=False)
            for aggregation in (tf.VariableAggregation.SUM, tf.VariableAggregation.MEAN)
        ]

    def change() -> None:
        @tf.function
        def in_replica() -> None:
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            for each in sums:
                each.assign_add(tf.cast(replica, tf.float32) + 1.0)

        two_replicas.run(in_replica)
        for variable in model.variables:
            variable.assign(variable + 1.0)

    change()
    assert_same(tmp_path, tf.train.Checkpoint(model=model, sums=sums), change)


def test_tables_and_generators(tmp_path: pathlib.Path) -> None:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, default_value=-1)
    table.insert(["a"], [1])
    generator = tf.random.Generator.from_seed(1)

    def change() -> None:
        table.insert(["b"], [2])
        generator.normal([3])

    assert_same(tmp_path, tf.train.Checkpoint(table=table, generator=generator), change)


def test_the_position_of_an_iterator(tmp_path: pathlib.Path) -> None:
    iterator = iter(tf.data.Dataset.range(100).shuffle(10, seed=3).batch(2).prefetch(2))
    next(iterator)
    checkpoint = tf.train.Checkpoint(iterator=iterator)
    checkpoint.write(str(tmp_path / "whole"))
    snapshot = Snapshot(checkpoint)
    expected = [next(iterator).numpy().tolist() for _ in range(3)]
    snapshot.write(str(tmp_path / "snapshot"))
    assert contents(tmp_path / "snapshot") == contents(tmp_path / "whole")
    checkpoint.read(str(tmp_path / "snapshot")).assert_consumed()
    assert [next(iterator).numpy().tolist() for _ in range(3)] == expected


def compiled(change: Callable[[tf.Variable], object], *, jit: bool) -> Callable[[tf.Variable], object]:
    return lambda variable: tf.function(lambda: change(variable), jit_compile=jit, autograph=False)()


def in_a_loop(variable: tf.Variable) -> tf.Tensor:
    return tf.while_loop(lambda i: i < 3, lambda i: (variable.assign_add(tf.ones([8, 4])), i + 1)[1:], [0])[0]


def adam(variable: tf.Variable) -> None:
    optimizer = tf_keras.optimizers.Adam()
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.ones([8, 4]), variable)])


CHANGES: dict[str, Callable[[tf.Variable], object]] = {
    "assign": lambda v: v.assign(v * 2.0),
    "assign_add": lambda v: v.assign_add(tf.ones([8, 4])),
    "scatter": lambda v: v.scatter_add(tf.IndexedSlices(tf.ones([1, 4]), [1])),
    "scatter_nd": lambda v: v.scatter_nd_add([[2]], tf.ones([1, 4])),
    "slice": lambda v: v[2:4].assign(v[2:4] + 1.0),
    "a fused update": lambda v: tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=0.1, delta=tf.ones([8, 4])),
    "Adam": adam,
    "compiled": compiled(lambda v: v.assign_add(tf.ones([8, 4])), jit=False),
    "XLA": compiled(lambda v: v.assign_add(tf.ones([8, 4])), jit=True),
    "XLA, scatter": compiled(lambda v: v.scatter_add(tf.IndexedSlices(tf.ones([1, 4]), [1])), jit=True),
    "a loop": compiled(in_a_loop, jit=False),
    "a loop, XLA": compiled(in_a_loop, jit=True),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_no_way_to_write_to_a_variable_reaches_a_value_that_was_read(
    tmp_path: pathlib.Path, change: Callable[[tf.Variable], object]
) -> None:
    variable = tf.Variable(tf.ones([8, 4]))
    for _ in range(2):  # some ops change how a variable is read from then on
        before = variable.numpy().copy()
        snapshot = Snapshot(tf.train.Checkpoint(variable=variable))
        change(variable)
        assert not np.array_equal(variable.numpy(), before)
        snapshot.write(str(tmp_path / "state"))
        written = tf.train.load_variable(str(tmp_path / "state"), "variable/.ATTRIBUTES/VARIABLE_VALUE")
        np.testing.assert_array_equal(written, before)


class SavedTheOldWay(tf.Module):
    def _gather_saveables_for_checkpoint(self) -> dict[str, Any]:
        return {"value": lambda name="": None}


class ReadWhileWritten(tf.Module):
    def _serialize_to_tensors(self) -> dict[str, Any]:
        return {"value": lambda: tf.constant(1.0)}


class Unfinished(tf.Module):
    def _serialize_to_tensors(self) -> dict[str, Any]:
        raise NotImplementedError("write me")


@pytest.mark.parametrize("kind", [SavedTheOldWay, ReadWhileWritten])
def test_what_cannot_be_copied_is_not_left_out(kind: type[tf.Module]) -> None:
    with pytest.raises(CannotCopy, match=kind.__name__):
        Snapshot(tf.train.Checkpoint(part=kind()))


def test_an_error_of_what_is_saved_comes_out() -> None:
    with pytest.raises(NotImplementedError, match="write me"):
        Snapshot(tf.train.Checkpoint(part=Unfinished()))


def test_what_tensorflow_counts_its_own_saves_with_is_left_out(tmp_path: pathlib.Path) -> None:
    value = tf.Variable(1.0)
    checkpoint = tf.train.Checkpoint(value=value)
    Snapshot(checkpoint).write(str(tmp_path / "before"))
    checkpoint.restore(str(tmp_path / "before"))  # which makes `save_counter`
    Snapshot(checkpoint).write(str(tmp_path / "after"))
    assert contents(tmp_path / "after") == contents(tmp_path / "before")
