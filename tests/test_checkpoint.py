"""Checkpoints on the disk: committed whole or not at all, kept as asked, never written over."""

import json
import os
import pathlib
from typing import Any

import pytest
import tensorflow as tf

from trainloop.checkpoint import Checkpoints


class Part(tf.Module):
    """A part of a checkpoint with variables of given shapes."""

    def __init__(self, **shapes: list[int]):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, tf.Variable(tf.zeros(shape)))


def saved(directory: pathlib.Path, *steps: int, **options: Any) -> Checkpoints:
    """Saves a variable whose value is the step."""
    checkpoints = Checkpoints(directory)
    value = tf.Variable(0.0)
    for step in steps:
        value.assign(step)
        checkpoints.save(tf.train.Checkpoint(value=value), step=step, **options)
    return checkpoints


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_checkpoint_comes_back(tmp_path: pathlib.Path) -> None:
    value = tf.Variable(0.0)
    restored = saved(tmp_path, 7).restore(tf.train.Checkpoint(value=value), 7)
    assert (value.numpy(), restored.step) == (7.0, 7)


def test_the_manifest_says_what_was_saved(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 7, metrics={"eval/loss": 0.5, "confusion": [[1, 2]]}, keep=2, monitor="eval/loss")
    manifest = checkpoints.manifest(7)
    sizes = {path.name: path.stat().st_size for path in checkpoints.path(7).iterdir() if path.name != "manifest.json"}
    assert manifest["step"] == 7
    assert manifest["metrics"] == {"eval/loss": 0.5}
    assert manifest["retention"] == {"keep": 2, "monitor": "eval/loss", "mode": "min"}
    assert manifest["files"] == sizes
    assert manifest["versions"]["tensorflow"] == tf.__version__


def test_no_directory_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert not (tmp_path / "none").exists()


def test_only_committed_directories_count(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 2, 10)
    for name in (".writing_00000020", "superseded_step_00000030_1", "step_", "step_x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000040").write_text("a file")
    assert checkpoints.steps() == [2, 10]


@pytest.mark.parametrize("moment", ["write", "manifest", "fsync"])
def test_a_save_that_fails_leaves_no_checkpoint_and_the_old_ones_whole(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    checkpoints = saved(tmp_path, 1, keep=1)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError("No space left on device")

    target = {"write": tf.train.Checkpoint, "manifest": pathlib.Path, "fsync": os}[moment]
    monkeypatch.setattr(target, {"write": "write", "manifest": "write_text", "fsync": "fsync"}[moment], fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(tf.train.Checkpoint(), step=2, keep=1)
    assert checkpoints.steps() == [1]
    monkeypatch.undo()
    checkpoints.save(tf.train.Checkpoint(), step=3, keep=2)
    assert names(tmp_path) == {"step_00000001", "step_00000003"}, "what the failed save had left is gone"


def test_the_name_is_given_only_after_everything_is_on_the_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    rename = pathlib.Path.rename
    monkeypatch.setattr("trainloop.checkpoint._sync", lambda path: order.append(f"sync {path.name}"))
    monkeypatch.setattr(
        pathlib.Path, "rename", lambda self, target: order.append(f"rename {self.name}") or rename(self, target)
    )
    saved(tmp_path, 5)
    renamed = order.index("rename .writing_00000005")
    assert {"sync state.index", "sync manifest.json", "sync .writing_00000005"} < set(order[:renamed])
    assert order[renamed + 1 :] == [f"sync {tmp_path.name}"]


def test_the_newest_are_kept(tmp_path: pathlib.Path) -> None:
    assert saved(tmp_path, 1, 2, 3, 4, 5, keep=2).steps() == [4, 5]


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_best_is_kept_besides(tmp_path: pathlib.Path, mode: str, best: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, loss in enumerate([float("nan"), 0.1, 0.9, 0.5, 0.4, 0.3], start=1):
        metrics = {"eval/loss": loss}
        checkpoints.save(tf.train.Checkpoint(), step=step, metrics=metrics, keep=2, monitor="eval/loss", mode=mode)
    assert checkpoints.steps() == [best, 5, 6]
    assert checkpoints.find("best") == best


def test_of_equals_the_first_is_the_best(tmp_path: pathlib.Path) -> None:
    assert saved(tmp_path, 1, 2, 3, metrics={"eval/loss": 0.5}, monitor="eval/loss").find("best") == 1


def test_the_newest_and_a_step_are_found(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 5, 10)
    assert (checkpoints.find("latest"), checkpoints.find(5)) == (10, 5)


@pytest.mark.parametrize(
    ("which", "error", "message"),
    [
        (6, FileNotFoundError, "there is no checkpoint 6; .* holds 5, 10"),
        ("last", ValueError, "'last' is unknown; it must be 'latest', 'best' or a step. .* holds 5, 10"),
        ("best", ValueError, "no checkpoint holds a value of .*, so none is 'best'; give Checkpointing"),
    ],
)
def test_what_is_not_there_is_told_what_is(
    tmp_path: pathlib.Path, which: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^restore: {message}"):
        saved(tmp_path, 5, 10).find(which)


def test_saving_a_step_again_replaces_it_and_leaves_nothing_behind(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 5)
    value = tf.Variable(50.0)
    checkpoints.save(tf.train.Checkpoint(value=value), step=5)
    value.assign(0.0)
    checkpoints.restore(tf.train.Checkpoint(value=value), 5)
    assert value.numpy() == 50.0
    assert names(tmp_path) == {"step_00000005"}


def test_a_step_saved_again_is_never_without_a_whole_checkpoint(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between any two changes of the directory leaves the old checkpoint or the new one, under some name."""
    checkpoints = saved(tmp_path, 5)
    rename, whole = pathlib.Path.rename, []

    def watched(self: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        moved = rename(self, target)
        whole.append({json.loads(path.read_text())["step"] for path in tmp_path.glob("*step_*/manifest.json")})
        return moved

    monkeypatch.setattr(pathlib.Path, "rename", watched)
    checkpoints.save(tf.train.Checkpoint(), step=5)
    assert whole == [{5}, {5}]


def test_what_a_run_goes_back_behind_is_moved_aside(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 5, 10, 15, keep=9)
    checkpoints.supersede(after=5)
    assert checkpoints.steps() == [5]
    assert names(tmp_path) == {"step_00000005", "superseded_step_00000010_1", "superseded_step_00000015_1"}
    saved(tmp_path, 10)
    checkpoints.supersede(after=5)
    assert "superseded_step_00000010_2" in names(tmp_path), "nothing is written over"


@pytest.mark.parametrize(
    ("have", "message"),
    [
        ({"kernel": [2, 3]}, r"model/kernel has the shape \(2, 3\) and was saved with \(2, 2\)"),
        ({"kernel": [2, 2], "bias": [2]}, "model/bias was not saved"),
        ({}, "model/kernel was saved and is not there"),
    ],
)
def test_another_model_is_refused_before_a_variable_changes(
    tmp_path: pathlib.Path, have: dict[str, list[int]], message: str
) -> None:
    checkpoints, step = Checkpoints(tmp_path), tf.Variable(1)
    checkpoints.save(tf.train.Checkpoint(step=step, model=Part(kernel=[2, 2])), step=1)
    step.assign(0)
    with pytest.raises(
        ValueError, match=rf"^restore: .*step_00000001 does not fit this Trainer: {message}\. It was saved"
    ):
        checkpoints.restore(tf.train.Checkpoint(step=step, model=Part(**have)), 1, whole=("model",))
    assert step.numpy() == 0


def test_what_does_not_exist_yet_is_filled_in_and_compared_later(tmp_path: pathlib.Path) -> None:
    checkpoints, empty = Checkpoints(tmp_path), Part()
    full = Part(kernel=[2])
    full.kernel.assign([1.0, 2.0])
    checkpoints.save(tf.train.Checkpoint(model=full), step=1)
    restored = checkpoints.restore(tf.train.Checkpoint(model=empty), 1)
    empty.kernel = tf.Variable([0.0, 0.0])
    restored.check(whole=("model",))
    assert empty.kernel.numpy().tolist() == [1.0, 2.0]
    empty.bias = tf.Variable(0.0)
    with pytest.raises(ValueError, match="model/bias was not saved"):
        restored.check()


def test_parts_that_are_not_asked_to_be_whole_may_be_left_out(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(tf.train.Checkpoint(model=Part(kernel=[2]), averages=Part(kernel=[2])), step=1)
    checkpoints.restore(tf.train.Checkpoint(model=Part(kernel=[2])), 1, whole=("model", "optimizer"))


def test_a_variable_with_two_names_is_one(tmp_path: pathlib.Path) -> None:
    """As a compiled model holds its optimizer, which the Trainer holds too."""
    shared, checkpoints = Part(rate=[]), Checkpoints(tmp_path)
    checkpoints.save(tf.train.Checkpoint(model=tf.train.Checkpoint(optimizer=shared), optimizer=shared), step=1)
    alone = tf.train.Checkpoint(model=tf.train.Checkpoint(), optimizer=Part(rate=[]))
    checkpoints.restore(alone, 1, whole=("model", "optimizer"))


def test_many_differences_are_counted(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(tf.train.Checkpoint(model=Part()), step=1)
    many = Part(**{f"v{number}": [1] for number in range(8)})
    with pytest.raises(ValueError, match=r"model/v4 was not saved and 3 more\. It was saved"):
        checkpoints.restore(tf.train.Checkpoint(model=many), 1)
