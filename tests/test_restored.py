"""A checkpoint that is put back: what does not fit is named before anything changes."""

import pathlib

import pytest
import tensorflow as tf

from trainloop.restored import Restored


class Part(tf.Module):
    """A part of a checkpoint with variables of given shapes."""

    def __init__(self, **shapes: list[int]):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, tf.Variable(tf.zeros(shape)))


def save(directory: pathlib.Path, **parts: object) -> None:
    tf.train.Checkpoint(**parts).write(str(directory / "state"))


def restore(directory: pathlib.Path, *whole: str, **parts: object) -> Restored:
    return Restored(directory, 1, tf.train.Checkpoint(**parts), whole)


@pytest.mark.parametrize(
    ("have", "message"),
    [
        ({"kernel": [2, 3]}, r"model/kernel has the shape \(2, 3\) and was saved with \(2, 2\)"),
        ({"kernel": [2, 2], "bias": [2]}, r"model/bias was not saved \(shape \(2,\)\)"),
        ({}, r"model/kernel was saved and is not there \(shape \(2, 2\)\)"),
        (
            {"kernels": [2, 2]},
            r"model/kernels was not saved \(shape \(2, 2\); the nearest that was saved is model/kernel, shape \(2, 2\)"
            r".; model/kernel was saved and is not there \(shape \(2, 2\); the nearest that is there is model/kernels,",
        ),
    ],
    ids=["another shape", "one more", "one less", "another name"],
)
def test_another_model_is_refused_before_a_variable_changes(
    tmp_path: pathlib.Path, have: dict[str, list[int]], message: str
) -> None:
    save(tmp_path, step=tf.Variable(1), model=Part(kernel=[2, 2]))
    step = tf.Variable(0)
    with pytest.raises(ValueError, match=rf"^restore: .* does not fit this Trainer: {message}"):
        restore(tmp_path, "model", step=step, model=Part(**have))
    assert step.numpy() == 0


def test_another_type_is_refused_before_a_variable_changes(tmp_path: pathlib.Path) -> None:
    save(tmp_path, first=tf.Variable(1), second=tf.Variable(1.0))
    first = tf.Variable(0)
    with pytest.raises(ValueError, match=r"does not fit this Trainer: second is of float64 and was saved as float32\."):
        restore(tmp_path, first=first, second=tf.Variable(0.0, dtype=tf.float64))
    assert first.numpy() == 0


def test_the_nearest_of_the_same_shape_comes_first(tmp_path: pathlib.Path) -> None:
    save(tmp_path, model=Part(dense_kernel=[3], dense_1_kernel=[2, 2]))
    with pytest.raises(ValueError, match=r"dense_kernel_ was not saved \(.* nearest that was saved is model/dense_1_k"):
        restore(tmp_path, model=Part(dense_kernel_=[2, 2]))


def test_what_does_not_exist_yet_is_filled_in_and_compared_later(tmp_path: pathlib.Path) -> None:
    full, empty = Part(kernel=[2]), Part()
    full.kernel.assign([1.0, 2.0])
    save(tmp_path, model=full)
    restored = restore(tmp_path, model=empty)
    empty.kernel = tf.Variable([0.0, 0.0])
    restored.check(whole=("model",))
    assert empty.kernel.numpy().tolist() == [1.0, 2.0]
    empty.bias = tf.Variable(0.0)
    with pytest.raises(ValueError, match="model/bias was not saved"):
        restored.check()


def test_parts_that_are_not_asked_to_be_whole_may_be_left_out(tmp_path: pathlib.Path) -> None:
    save(tmp_path, model=Part(kernel=[2]), averages=Part(kernel=[2]))
    restore(tmp_path, "model", "optimizer", model=Part(kernel=[2]))


def test_what_tensorflow_counts_its_own_saves_with_need_not_have_been_saved(tmp_path: pathlib.Path) -> None:
    save(tmp_path, first=tf.Variable(1.0))
    first = tf.Variable(0.0)
    checkpoint = tf.train.Checkpoint(first=first)
    checkpoint.restore(str(tmp_path / "state"))  # which makes `save_counter`
    first.assign(5.0)
    Restored(tmp_path, 1, checkpoint)
    assert first.numpy() == 1.0


def test_a_variable_with_two_names_is_one(tmp_path: pathlib.Path) -> None:
    """As a compiled model holds its optimizer, which the Trainer holds too."""
    shared = Part(rate=[])
    save(tmp_path, model=tf.train.Checkpoint(optimizer=shared), optimizer=shared)
    restore(tmp_path, "model", "optimizer", model=tf.train.Checkpoint(), optimizer=Part(rate=[]))


def test_many_differences_are_counted(tmp_path: pathlib.Path) -> None:
    save(tmp_path, model=Part())
    many = Part(**{f"v{number}": [1] for number in range(8)})
    with pytest.raises(ValueError, match=r"model/v4 was not saved \(shape \(1,\)\) and 3 more\. It was saved"):
        restore(tmp_path, model=many)
