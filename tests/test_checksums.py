"""What TensorFlow's own checksums cover: any wrong bit in a checkpoint is found, and ends no process."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from trainloop import checksums, manifest
from trainloop.manifest import CheckpointDamaged

VALUES = "state.data-00000-of-00002"
VARIANTS = "state.data-00001-of-00002"


def numbers() -> tf.data.Iterator:
    return iter(tf.data.Dataset.range(9).shuffle(5, seed=1).batch(2))


def objects() -> dict[str, tf.Variable]:
    return {
        "weights": tf.Variable(np.arange(9.0), dtype=tf.float32),
        "half": tf.Variable([1.0, 2.0], dtype=tf.bfloat16),
        "flags": tf.Variable([True, False]),
        "words": tf.Variable(["", "a", "longer than the others"]),
    }


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    checkpoint = tf.train.Checkpoint(**objects(), iterator=numbers())
    checkpoint.write(str(tmp_path / "state"), checksums.OPTIONS)
    manifest.seal(tmp_path, {}, checksums.covered(tmp_path / "state"))
    return tmp_path


def test_a_hash_is_noted_of_all_but_the_values_that_tensorflow_checks(directory: pathlib.Path) -> None:
    files = manifest.read(directory)["files"]
    assert {name: set(noted) for name, noted in files.items()} == {
        "state.index": {"size", "sha256"},
        VALUES: {"size"},
        VARIANTS: {"size", "sha256"},
    }
    assert manifest.verify(directory) == [directory / VALUES]


def test_a_checkpoint_is_one_that_tensorflow_reads(directory: pathlib.Path) -> None:
    iterator, other = numbers(), {name: tf.Variable(tf.zeros_like(each)) for name, each in objects().items()}
    next(iterator)
    tf.train.Checkpoint(**other, iterator=iterator).read(str(directory / "state")).assert_consumed()
    assert all(np.array_equal(other[name], each) for name, each in objects().items())
    assert next(iterator).numpy().tolist() == next(numbers()).numpy().tolist()


@pytest.mark.parametrize("name", [VALUES, VARIANTS, "state.index", manifest.NAME])
def test_a_wrong_bit_is_found_wherever_it_is(directory: pathlib.Path, name: str) -> None:
    checksums.verify(directory / "state")
    path = directory / name
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointDamaged, match=str(path)):
            checksums.verify(directory / "state")


def test_the_value_that_is_damaged_is_named(directory: pathlib.Path) -> None:
    path = directory / VALUES
    place = path.read_bytes().index(np.arange(9.0, dtype="float32").tobytes())
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointDamaged, match=f"{VALUES} holds other bytes than were written: those of weights/"):
        checksums.verify(directory / "state")


@pytest.fixture
def hashed(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkpoint that has a hash of each file, and variants among the values: trainloop has written such ones."""
    tf.train.Checkpoint(**objects(), iterator=numbers()).write(str(tmp_path / "state"))
    manifest.seal(tmp_path, {})
    return tmp_path


def test_what_has_a_hash_of_each_file_is_not_read_to_be_verified(
    hashed: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = manifest.read(hashed)["files"]
    assert {name: set(noted) for name, noted in files.items()} == {
        "state.index": {"size", "sha256"},
        "state.data-00000-of-00001": {"size", "sha256"},
    }
    monkeypatch.setattr(tf.train, "load_checkpoint", lambda prefix: pytest.fail("it was read"))
    checksums.verify(hashed / "state")


def test_what_tensorflow_has_no_memory_to_read_is_not_called_damaged(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(prefix: str) -> None:
        raise tf.errors.ResourceExhaustedError(None, None, "no memory")

    monkeypatch.setattr(tf.train, "load_checkpoint", fail)
    with pytest.raises(tf.errors.ResourceExhaustedError):
        checksums.verify(directory / "state")


def test_files_that_are_gone_before_they_are_read_are_said_to_be(
    directory: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = manifest.verify

    def verify_and_delete(directory: pathlib.Path) -> list[pathlib.Path]:
        found = verify(directory)
        for path in directory.iterdir():
            path.unlink()
        return found

    monkeypatch.setattr(manifest, "verify", verify_and_delete)
    with pytest.raises(CheckpointDamaged, match=f"{VALUES} cannot be read") as raised:
        checksums.verify(directory / "state")
    assert isinstance(raised.value.__cause__, FileNotFoundError)
