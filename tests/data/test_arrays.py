"""`from_arrays`: the position of a batch, what is mapped and augmented when, files that stay on the disk; bad input."""

import itertools
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from trainloop import data, random
from trainloop.data import ArrayData, addressed
from trainloop.data import arrays as arrays_module

ROWS, BATCH, STEPS_PER_EPOCH = 10, 4, 3
NUMBERS = np.arange(ROWS)


def numbers(**options: Any) -> ArrayData:
    return data.from_arrays(NUMBERS, **{"batch_size": BATCH} | options)


def taken(source: ArrayData, batches: int, *, run_seed: int = 1, epoch: int = 0, batch: int = 0) -> list[list[int]]:
    return [b.numpy().tolist() for b in source.endless(run_seed, epoch, batch).take(batches)]


def epoch_of(source: ArrayData, epoch: int, *, run_seed: int = 1) -> list[int]:
    return [row for batch in taken(source, source.steps_per_epoch, run_seed=run_seed, epoch=epoch) for row in batch]


def test_an_epoch_in_batches_is_that_permutation_with_a_smaller_last_batch() -> None:
    batches = taken(numbers(), STEPS_PER_EPOCH)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert [row for batch in batches for row in batch] == numbers().order(1, 0).between(0, ROWS).tolist()


@pytest.mark.parametrize(
    ("one", "other"),
    [({"epoch": 0}, {"epoch": 1}), ({"epoch": 0, "run_seed": 1}, {"epoch": 0, "run_seed": 2})],
    ids=["epochs", "seeds"],
)
def test_orders_differ(one: dict[str, int], other: dict[str, int]) -> None:
    assert epoch_of(numbers(), **one) != epoch_of(numbers(), **other)
    assert epoch_of(numbers(), **one) == epoch_of(numbers(), **one)


def test_its_own_seed_wins_over_the_runs() -> None:
    assert epoch_of(numbers(seed=5), 0, run_seed=1) == epoch_of(numbers(seed=5), 0, run_seed=2)
    assert epoch_of(numbers(seed=5), 0) == epoch_of(numbers(), 0, run_seed=5)


def test_without_shuffling_rows_come_in_order_in_each_epoch() -> None:
    assert taken(numbers(shuffle=False), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]


@settings(max_examples=8)
@given(epoch=st.integers(0, 4), batch=st.integers(0, STEPS_PER_EPOCH - 1))
def test_a_position_is_where_skipping_would_have_led(epoch: int, batch: int) -> None:
    skipped = epoch * STEPS_PER_EPOCH + batch
    assert taken(numbers(), 4, epoch=epoch, batch=batch) == taken(numbers(), skipped + 4)[skipped:]


@settings(max_examples=8)
@given(rows=st.integers(1, 40), size=st.integers(1, 9), epoch=st.integers(0, 3), in_a_block=st.integers(1, 20))
def test_blocks_of_batches_are_of_no_consequence(rows: int, size: int, epoch: int, in_a_block: int) -> None:
    source = data.from_arrays(np.arange(rows), batch_size=size)
    whole = taken(source, 45, epoch=epoch)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(addressed, "_ROWS_IN_A_BLOCK", in_a_block)
        assert taken(source, 45, epoch=epoch) == whole
        batch = source.steps_per_epoch - 1
        assert taken(source, 5, epoch=epoch, batch=batch) == whole[batch : batch + 5]


@pytest.mark.parametrize("together", [1, 2, 3, 32])
def test_how_many_batches_are_gathered_together_is_of_no_consequence(
    monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    pairs = (np.arange(22), np.arange(44).reshape(22, 2))

    def batches() -> list[Any]:
        source = data.from_arrays(pairs, batch_size=4)
        found = [*source.once, *source.endless(1, 1, 2).take(15)]
        return [tf.nest.map_structure(lambda leaf: leaf.numpy().tolist(), batch) for batch in found]

    expected = batches()
    monkeypatch.setattr(arrays_module, "_MOST_TOGETHER", together)
    assert batches() == expected
    assert [len(y) for _, y in expected[:6]] == [4, 4, 4, 4, 4, 2]


def test_other_phases_see_all_rows_once_in_order() -> None:
    assert [b.numpy().tolist() for b in numbers().once] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    "arrays",
    [
        NUMBERS,
        (NUMBERS,),
        (NUMBERS, NUMBERS * 2.0, NUMBERS > 3),
        {"image": np.ones([ROWS, 2, 2, 1], np.uint8), "text": np.array(["a"] * ROWS)},
        ({"a": NUMBERS, "b": (NUMBERS, tf.constant(NUMBERS))}, NUMBERS),
    ],
    ids=["x", "(x,)", "(x, y, w)", "a dict", "a nest"],
)
def test_a_nest_of_arrays_gives_batches_of_that_nest(arrays: Any) -> None:
    whole = data.from_arrays(arrays, batch_size=ROWS)
    [batch] = whole.once
    tf.nest.assert_same_structure(batch, arrays)
    for row, leaf in zip(tf.nest.flatten(batch), tf.nest.flatten(arrays), strict=True):
        np.testing.assert_array_equal(row.numpy().astype(np.asarray(leaf).dtype), leaf)
        assert row.dtype == tf.constant(leaf).dtype


def test_a_list_of_inputs_is_a_tuple_in_a_batch() -> None:
    """As Keras users write the inputs of a model that has several; TensorFlow would stack them."""
    one, other = np.zeros([6, 3]), np.ones([6, 3])
    source = data.from_arrays(([one, other], {"y": [one, other]}), batch_size=4)
    (inputs, targets) = next(iter(source.once))
    assert [each.shape for each in (*inputs, *targets["y"])] == [(4, 3)] * 4
    assert isinstance(inputs, tuple)


def test_the_arrays_of_a_nest_keep_their_rows_together() -> None:
    for x, y in data.from_arrays((NUMBERS, NUMBERS**2), batch_size=BATCH).endless(1, 0, 0).take(4):
        np.testing.assert_array_equal(x**2, y)


def test_map_fn_is_applied_in_every_phase_and_augment_fn_in_training_alone() -> None:
    source = numbers(map_fn=lambda batch: batch + 100, augment_fn=lambda batch, key: -batch)
    assert sorted(-row for row in epoch_of(source, 0)) == [100 + row for row in NUMBERS]
    assert [row for batch in source.once for row in batch.numpy()] == [100 + row for row in NUMBERS]


def test_map_fn_and_augment_fn_may_be_written_as_plain_python() -> None:
    """`if` and `for` over tensors are AutoGraph's."""

    def flip_some(batch: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        if key[1] % 2 == 0:
            return -batch
        return batch

    batches = taken(numbers(shuffle=False, augment_fn=flip_some), 3)
    assert batches == [[0, -1, -2, -3], [4, 5, 6, 7], [-8, -9]]


def keys(source: Callable[..., ArrayData], count: int, **position: int) -> list[list[int]]:
    return taken(source(augment_fn=lambda batch, key: key), count, **position)


def test_the_key_of_augment_fn_is_another_one_each_step_and_belongs_to_the_step() -> None:
    found = keys(numbers, 7, run_seed=3)
    assert found == [[3, step] for step in range(7)]
    assert keys(numbers, 2, run_seed=3, epoch=1, batch=1) == found[4:6]


def test_what_augment_fn_draws_is_repeated_where_a_run_is() -> None:
    def noise(batch: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform(tf.shape(batch), key, maxval=10**6, dtype=tf.int32)

    whole = taken(numbers(augment_fn=noise), 6)
    assert taken(numbers(augment_fn=noise), 2, epoch=1, batch=1) == whole[4:6]
    assert len({tuple(batch) for batch in whole}) == 6


@pytest.mark.parametrize("fn", ["map_fn", "augment_fn"])
def test_draws_without_a_key_belong_to_the_step_too(fn: str) -> None:
    def noise(batch: tf.Tensor, key: Any = None) -> tf.Tensor:
        tf.random.uniform([])
        return tf.random.uniform(tf.shape(batch), maxval=10**6, dtype=tf.int32) + random.uniform([], 0, 9, tf.int32)

    whole = taken(numbers(**{fn: noise}), 6)
    assert taken(numbers(**{fn: noise}), 2, epoch=1, batch=1) == whole[4:6]
    assert len({tuple(batch) for batch in whole}) == 6
    assert taken(numbers(**{fn: noise}), 1, run_seed=2) != whole[:1]


HUGE_ROWS, WIDTH = 2**31, 128


@pytest.fixture
def huge(tmp_path: pathlib.Path) -> np.memmap:
    """A file of 2 TiB, nothing but a hole except for the numbers that its first column begins with."""
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(HUGE_ROWS * WIDTH * 8)
    return np.memmap(tmp_path / "huge", ">f8", "r+", shape=(HUGE_ROWS, WIDTH))


@pytest.mark.parametrize(
    "view",
    [lambda x: x, np.asarray, lambda x: x[:, :3], lambda x: x[::-1]],
    ids=["whole", "array", "columns", "turned"],
)
def test_a_mapped_file_is_not_read_but_for_the_rows_of_a_batch(huge: np.memmap, view: Callable[[Any], Any]) -> None:
    """More than any memory holds, so that whoever reads it whole fails; the numbers have another byte order."""
    source = data.from_arrays({"x": view(huge)}, batch_size=4)
    expected = source.order(1, 5).between(2 * 10**9, 2 * 10**9 + 8)
    for number in expected:
        view(huge)[number, 0] = number
    batches = list(source.endless(1, 5, 5 * 10**8).take(2))
    assert [batch["x"].shape for batch in batches] == [(4, view(huge).shape[1])] * 2
    assert [row for batch in batches for row in batch["x"][:, 0].numpy()] == expected.tolist()
    [first] = source.once.take(1)
    assert first["x"].dtype == tf.float64


def test_mapped_arrays_and_others_give_the_batches_of_those_in_memory(tmp_path: pathlib.Path) -> None:
    arrays = {"x": np.arange(30.0).reshape(10, 3), "y": NUMBERS, "z": np.array([f"row {n}" for n in NUMBERS])}
    for name in ("x", "z"):
        np.save(tmp_path / f"{name}.npy", arrays[name])
    mapped = arrays | {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "z")}
    for one, other in itertools.pairwise(
        [
            [*source.once, *source.endless(1, 0, 1).take(4)]
            for source in (data.from_arrays(a, batch_size=4) for a in (arrays, mapped))
        ]
    ):
        for here, there in zip(one, other, strict=True):
            tf.nest.map_structure(np.testing.assert_array_equal, here, there)
            tf.nest.map_structure(lambda a, b: a.dtype == b.dtype or pytest.fail("types"), here, there)


@pytest.mark.parametrize("rows", [10, 10**6, 10**9])
@pytest.mark.parametrize("deep", [False, True])
def test_to_seek_costs_a_block_however_many_rows_there_are(
    monkeypatch: pytest.MonkeyPatch, rows: int, deep: bool
) -> None:
    """Counted in places of the order that were looked at, which is what takes the time."""
    looked_at: list[int] = []

    class Counted:
        def between(self, start: int, stop: int) -> np.ndarray:
            looked_at.append(min(stop, rows) - start)
            return np.arange(start, min(stop, rows)) % 10

    source = numbers()
    source.rows, source.steps_per_epoch = rows, -(-rows // BATCH)
    monkeypatch.setattr(source, "order", lambda seed, epoch: Counted())
    batch = source.steps_per_epoch - 1 if deep else 0
    next(iter(source.endless(1, 7, batch)))
    assert sum(looked_at[:1]) <= 8192
    assert sum(looked_at) <= 3 * 8192  # one to begin with, and what is read ahead


@pytest.mark.parametrize(
    ("arrays", "options", "error", "message"),
    [
        (NUMBERS, {"batch_size": 0}, ValueError, "batch_size=0 must be a positive whole number"),
        (NUMBERS, {"batch_size": 2.0}, ValueError, r"batch_size=2\.0 must be a positive whole number"),
        (NUMBERS, {"batch_size": True}, ValueError, "batch_size=True must be a positive whole number"),
        (NUMBERS, {"seed": -1}, ValueError, r"seed=-1 must be a whole number from 0 to 2\*\*63 - 1, or None"),
        (NUMBERS, {"seed": "x"}, ValueError, "seed='x' must be a whole number"),
        ((NUMBERS, NUMBERS[1:]), {}, ValueError, r"arrays= must have the same number of rows; .* are \(10,\), \(9,\)"),
        (NUMBERS[:0], {}, ValueError, "arrays= has no rows"),
        ((), {}, ValueError, r"arrays=\(\) holds no array"),
        (np.float32(1), {}, ValueError, "arrays= holds a scalar; every leaf must have rows"),
        ([1, 2], {}, TypeError, "arrays= holds 1 of type int; every leaf must be an array .numpy.asarray"),
        (
            NUMBERS.astype("M8[s]"),
            {},
            TypeError,
            r"arrays= holds an array of dtype datetime64\[s\], which TensorFlow does",
        ),
        (
            (NUMBERS, list(NUMBERS.reshape(10, 1))),
            {},
            ValueError,
            r"arrays= must have the same number of rows; arrays\[1\] is a list of 10 arrays; numpy.asarray makes one",
        ),
        (
            {"x": NUMBERS, "y": [NUMBERS[1:], NUMBERS]},
            {},
            ValueError,
            r"arrays= must have the same number of rows; their shapes are \(10,\), \(9,\), \(10,\)$",
        ),
        (np.array([NUMBERS, None], object), {}, TypeError, "arrays= holds an array of dtype object, of which no"),
        (
            NUMBERS,
            {"map_fn": lambda x, y: (x, y)},
            TypeError,
            r"map_fn\(x, y\) is called with the batch alone; write map_fn\(batch\): x, y = batch",
        ),
        (
            NUMBERS,
            {"augment_fn": lambda batch: batch},
            TypeError,
            r"augment_fn\(batch\) is called with \(batch, key\); write augment_fn\(batch, key\)",
        ),
        (
            NUMBERS,
            {"augment_fn": lambda x, y, key: (x, y)},
            TypeError,
            r"augment_fn\(x, y, key\) is called with \(batch, key\); write",
        ),
        (NUMBERS, {"map_fn": 3}, TypeError, "map_fn=3 must be a function, or None"),
        (NUMBERS, {"augment_fn": True}, TypeError, "augment_fn=True must be a function, or None"),
        ({"x": None}, {}, TypeError, "arrays= holds None of type NoneType; every leaf must be an array"),
    ],
)
def test_arrays_that_are_none_are_refused(
    arrays: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^from_arrays: {message}"):
        data.from_arrays(arrays, **{"batch_size": BATCH} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map_fn": lambda batch: None}, "map_fn returned None; it must return the batch"),
        ({"augment_fn": lambda batch, key: None}, "augment_fn returned None; it must return the batch"),
        (
            {"augment_fn": lambda x, y: (x, y)},
            r"augment_fn returned its second argument, the key, .* is called with \(batch, key\) and must return",
        ),
    ],
)
def test_what_returns_no_batch_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"^{message}"):
        taken(numbers(**options), 1)


def test_who_gives_arrays_one_by_one_is_told_to_pack_them() -> None:
    with pytest.raises(
        TypeError, match=r"was given 2 arguments .*; pack them: from_arrays\(\(x, y\), batch_size=\.\.\.\)$"
    ):
        data.from_arrays(NUMBERS, NUMBERS, batch_size=4)  # type: ignore[misc]
    with pytest.raises(TypeError, match=r"^from_arrays has no argument batchsize=; did you mean batch_size=\?"):
        data.from_arrays(NUMBERS, batchsize=4)  # type: ignore[call-arg]
