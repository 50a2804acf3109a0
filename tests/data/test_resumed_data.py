"""A run that goes on from a checkpoint sees what it would have seen: every kind of data, batch by batch."""

import contextlib
import itertools
import json
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from trainloop import Callback, Checkpointing, Every, Trainer, data

X = np.arange(20)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


class Seen(Trainer):
    """Writes down the batches of its steps, which run eagerly so that it can."""

    def __init__(self, workdir: pathlib.Path | None, *callbacks: Callback, **options: Any):
        model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))])
        self.seen: list[Any] = []
        super().__init__(
            model,
            "sgd",
            workdir=workdir,
            seed=3,
            default_callbacks=False,
            run_eagerly=True,
            callbacks=[*callbacks, Checkpointing(Every(steps=5), keep=9)] if workdir is not None else (),
            **options,
        )

    def compute_loss(self, batch: Any, phase: Any) -> tf.Tensor:
        self.seen.append(tf.nest.map_structure(lambda leaf: leaf.numpy().tolist(), batch))
        return tf.reduce_mean(self.model(tf.ones([1, 1])))


class Killed(Exception):
    pass


class Kill(Callback):
    def __init__(self, step: int):
        self.trigger = Every(steps=step)

    def on_trigger(self, trainer: Trainer) -> None:
        raise Killed


def script(workdir: pathlib.Path, make: Callable[[], Any], *callbacks: Callback, **length: int) -> Seen:
    """What a user's program does; each call stands for a new process."""
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(1)
    source = make()
    trainer = Seen(workdir, *callbacks)
    trainer.restore_or_initialize()
    with contextlib.suppress(Killed):
        trainer.fit(source, **length)
    return trainer


def zipped() -> Any:
    source = data.from_source([(int(x), f"row {x}".encode()) for x in X], batch_size=3)
    return data.zip(few=data.from_arrays(X[:4], batch_size=3), many=source)


def generated() -> tf.data.Dataset:
    rows = tf.data.Dataset.from_generator(lambda: iter(X), output_signature=tf.TensorSpec([], tf.int64))
    return rows.shuffle(20, seed=2).batch(3)


def shuffled() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(X).shuffle(20).batch(3).prefetch(2)


def replayed(make: Callable[[], tf.data.Dataset]) -> Callable[[], Any]:
    return lambda: data.from_dataset(make(), resume="replay")


EXACT = {
    "a source": (lambda: data.from_source(X, batch_size=3), {"steps": 19}),
    "zipped": (zipped, {"epochs": 3}),
    "a dataset": (shuffled, {"epochs": 4}),
    "replayed, in epochs": (replayed(shuffled), {"epochs": 3}),
    "replayed, endless": (replayed(lambda: generated().repeat()), {"steps": 19}),
    "replayed, endless, in epochs": (replayed(lambda: generated().repeat()), {"epochs": 4, "steps_per_epoch": 4}),
    "replayed, of unknown length": (replayed(generated), {"epochs": 3}),
}


@pytest.mark.parametrize(
    ("kind", "killed_at"),
    [
        ("a source", 8),
        ("zipped", 8),
        ("a dataset", 6),  # the checkpoint of step 5 was saved when TensorFlow had read all of the first pass
        ("a dataset", 22),  # the same, in the third pass
        *((kind, 14) for kind in EXACT if kind.startswith("replayed")),
    ],
)
def test_a_killed_run_sees_the_batches_of_an_unbroken_one(tmp_path: pathlib.Path, kind: str, killed_at: int) -> None:
    make, length = EXACT[kind]
    unbroken = script(tmp_path / "unbroken", make, **length)
    assert len({json.dumps(batch, default=repr) for batch in unbroken.seen}) > 12  # else order would not show
    killed = script(tmp_path / "killed", make, Kill(killed_at), **length)
    resumed = script(tmp_path / "killed", make, **length)
    saved = killed_at // 5 * 5
    assert killed.seen == unbroken.seen[:killed_at]
    assert resumed.seen == unbroken.seen[saved:]
    assert (resumed.step, resumed.epoch) == (unbroken.step, unbroken.epoch)


def test_a_replayed_run_may_be_killed_again_and_again(tmp_path: pathlib.Path) -> None:
    make, length = EXACT["replayed, in epochs"]
    unbroken = script(tmp_path / "unbroken", make, **length)
    for step in (7, 11, 18):
        script(tmp_path / "killed", make, Kill(step), **length)
    assert script(tmp_path / "killed", make, **length).seen == unbroken.seen[15:]


@pytest.mark.parametrize("make", [shuffled, generated], ids=["could be saved", "could not"])
def test_an_epoch_begins_again_in_its_own_order(tmp_path: pathlib.Path, make: Callable[[], Any]) -> None:
    def source() -> Any:
        return data.from_dataset(make(), resume="epoch")

    unbroken = script(tmp_path / "unbroken", source, epochs=3)
    script(tmp_path / "killed", source, Kill(12), epochs=3)
    resumed = script(tmp_path / "killed", source, epochs=3)
    assert resumed.seen == unbroken.seen[7:]
    assert (resumed.step, resumed.epoch) == (24, 3)


def test_a_choice_that_was_made_is_not_warned_of_and_holds_no_iterator(tmp_path: pathlib.Path) -> None:
    def holds_an_iterator(workdir: pathlib.Path) -> bool:
        saved = str(workdir / "checkpoints" / "step_00000005" / "state")
        return any(name.startswith("iterator") for name, _ in tf.train.list_variables(saved))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for resume in ("epoch", "replay"):
            script(tmp_path / resume, lambda resume=resume: data.from_dataset(shuffled(), resume=resume), epochs=1)
            assert not holds_an_iterator(tmp_path / resume)
    script(tmp_path / "saved", shuffled, epochs=1)
    assert holds_an_iterator(tmp_path / "saved")


def test_a_shuffle_without_a_seed_is_said_not_to_resume_exactly(tmp_path: pathlib.Path) -> None:
    tf.random.set_seed(None)
    tf.compat.v1.set_random_seed(None)
    for source in (shuffled(), data.from_dataset(shuffled(), resume="replay")):
        with pytest.warns(UserWarning, match=r"^fit: train_data= shuffles without a seed: .* or give shuffle\(seed="):
            Seen(tmp_path / type(source).__name__).fit(source, epochs=1)


@pytest.mark.filterwarnings("ignore:fit. train_data= shuffles without a seed")
def test_tensorflow_still_forgets_an_unseeded_order(tmp_path: pathlib.Path) -> None:
    """The reason for that warning."""
    tf.compat.v1.set_random_seed(None)
    batches = tf.data.Dataset.range(50).shuffle(50).repeat().batch(25)
    first = iter(batches)
    next(first)
    saved = tf.train.Checkpoint(iterator=first).write(str(tmp_path / "iterator"))
    again = iter(tf.data.Dataset.range(50).shuffle(50).repeat().batch(25))
    tf.train.Checkpoint(iterator=again).read(saved)
    one, other = ([next(each).numpy().tolist() for _ in range(4)] for each in (first, again))
    assert one != other


def test_the_same_wrapped_dataset_goes_on_in_a_second_fit(tmp_path: pathlib.Path) -> None:
    dataset = generated()
    trainer = Seen(tmp_path)
    trainer.fit(data.from_dataset(dataset.repeat(), resume="replay"), steps=2)
    endless = data.from_dataset(dataset.repeat(), resume="replay")
    trainer.fit(endless, steps=4)
    trainer.fit(data.from_dataset(endless.dataset, resume="replay"), steps=6)
    unbroken = list(itertools.islice(iter(trainer.seen), 2, 6))
    rows = [row for batch in unbroken for row in batch]
    assert len(set(rows)) == len(rows) == 12


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((tf.data.Dataset.range(3), "iterator"), ValueError, "resume='iterator' is unknown; it must be 'replay'"),
        ((data.from_arrays(X, batch_size=3), "epoch"), TypeError, "dataset= is a ArrayData; it must be a tf.data.Da"),
    ],
)  # fmt: skip
def test_what_from_dataset_cannot_use_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^from_dataset: {message}"):
        data.from_dataset(arguments[0], resume=arguments[1])


def test_a_wrapped_dataset_is_evaluated_as_it_is() -> None:
    trainer = Seen(None)
    trainer.evaluate(data.from_dataset(generated(), resume="epoch"))
    assert sorted(row for batch in trainer.seen for row in batch) == X.tolist()


@pytest.mark.parametrize("rows", [10, 10**6])
def test_a_position_is_saved_in_less_than_four_kibibytes(tmp_path: pathlib.Path, rows: int) -> None:
    trainer = Seen(tmp_path)
    trainer.fit(data.zip(a=data.from_arrays(np.zeros([rows], "int8"), batch_size=2), b=zipped().parts["many"]), steps=5)
    reader = tf.train.load_checkpoint(str(tmp_path / "checkpoints" / "step_00000005" / "state"))
    counters = [
        key for key in reader.get_variable_to_shape_map() if key.split("/")[0] in ("epoch", "epoch_start", "passes")
    ]
    host = json.loads(reader.get_tensor("host/.ATTRIBUTES/py_state"))
    assert len(counters) == 3
    assert sum(reader.get_tensor(key).nbytes for key in counters) + len(json.dumps(host["data"])) <= 100
    assert not any(key.startswith("iterator") for key in reader.get_variable_to_shape_map())


class Rows(Trainer):
    """Sums each row times its place in the run, so that another order is another number."""

    def compute_loss(self, batch: Any, phase: Any) -> tf.Tensor:
        place = tf.cast(self.step * 10, tf.float64) + tf.cast(batch[1], tf.float64)
        return tf.reduce_mean(tf.cast(batch[0], tf.float64) * place) + 0.0 * tf.cast(
            tf.reduce_mean(self.model(tf.ones([1, 1]))), tf.float64
        )


@pytest.mark.parametrize("kind", ["addressed", "a dataset"])
def test_replicas_see_the_rows_of_one_and_go_on_where_they_stood(
    tmp_path: pathlib.Path, two_replicas: Any, kind: str
) -> None:
    def make() -> Any:
        if kind == "addressed":
            return data.from_arrays((X, np.arange(20)), batch_size=4)
        return tf.data.Dataset.from_tensor_slices((X, np.arange(20))).shuffle(20, seed=4).batch(4).prefetch(2)

    def run(workdir: pathlib.Path, scope: Any, *callbacks: Callback) -> list[float]:
        tf_keras.utils.set_random_seed(1)
        source = make()
        with scope:
            model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(1,))])
        trainer = Rows(
            model,
            "sgd",
            workdir=workdir,
            seed=5,
            report_every=Every(steps=1),
            default_callbacks=False,
            callbacks=[*callbacks, Checkpointing(Every(steps=3))],
        )
        trainer.restore_or_initialize()
        with contextlib.suppress(Killed):
            trainer.fit(source, epochs=2)
        return trainer.history["loss"]

    one = run(tmp_path / "one", contextlib.nullcontext())
    two = run(tmp_path / "two", two_replicas.scope(), Kill(8))
    np.testing.assert_allclose(two, one[: len(two)], rtol=1e-9)
    np.testing.assert_allclose(run(tmp_path / "two", two_replicas.scope()), one[6:], rtol=1e-9)
    assert len(set(one)) == 10


def test_draws_that_get_no_key_are_said_not_to_be_repeated(tmp_path: pathlib.Path) -> None:
    def augment(batch: Any, key: tf.Tensor) -> Any:
        return tf.vectorized_map(lambda row: row + tf.random.uniform([], 0, 9, tf.int64), batch)

    part = data.from_arrays(X, batch_size=3, augment_fn=augment)
    for source in (part, data.zip(a=part)):
        with pytest.warns(
            UserWarning, match=r"^fit: train_data= draws at random where no key can .*RandomUniformInt in"
        ):
            Seen(tmp_path / type(source).__name__).fit(source, steps=1)


@pytest.mark.parametrize(("seed", "fresh", "said"), [(1, False, True), (1, True, False), (None, False, False)])
def test_a_shuffle_that_was_read_in_this_process_is_said_to_go_on(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, seed: int | None, fresh: bool, said: bool
) -> None:
    def make() -> Any:
        rows = tf.data.Dataset.from_tensor_slices(X)
        return (rows if seed is None else rows.shuffle(20, seed=seed)).batch(3)

    source = make()
    trainer = Seen(tmp_path)
    trainer.fit(source, epochs=1)
    trainer.restore(5)
    with caplog.at_level("WARNING", logger="absl"):
        trainer.fit(make() if fresh else source, epochs=1)
    assert ("its shuffle goes on from there" in caplog.text) is said
