"""Checkpoints of a run: kept as asked, saved beside the training, verified before one is put back."""

import logging
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from trainloop import manifest
from trainloop.checkpoint import CheckpointNotSaved, Checkpoints
from trainloop.manifest import CheckpointDamaged
from trainloop.snapshot import Snapshot
from trainloop.state import HostState
from trainloop.store import Store

PATIENCE = 60  # seconds, for what would else wait forever where the code is broken


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def saved(directory: pathlib.Path, *steps: int, **options: Any) -> Checkpoints:
    """Saves a variable whose value is the step."""
    checkpoints = Checkpoints(directory)
    value = tf.Variable(0.0)
    for step in steps:
        value.assign(step)
        checkpoints.save(tf.train.Checkpoint(value=value), step=step, **options)
    checkpoints.wait()
    return checkpoints


def value_in(checkpoints: Checkpoints, step: int) -> float:
    value = tf.Variable(-1.0)
    checkpoints.restore(tf.train.Checkpoint(value=value), step)
    return float(value)


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_checkpoint_comes_back(tmp_path: pathlib.Path) -> None:
    value = tf.Variable(0.0)
    restored = saved(tmp_path, 7).restore(tf.train.Checkpoint(value=value), 7)
    assert (value.numpy(), restored.step) == (7.0, 7)


def test_the_manifest_says_what_was_saved(tmp_path: pathlib.Path) -> None:
    metrics, environment = {"eval/loss": 0.5, "confusion": [[1, 2]]}, {"devices": {"CPU": 2}}
    checkpoints = saved(tmp_path, 7, metrics=metrics, keep=2, monitor="eval/loss", environment=environment)
    said = checkpoints.manifest(7)
    sizes = {path.name: path.stat().st_size for path in checkpoints.path(7).iterdir() if path.name != manifest.NAME}
    assert said["step"] == 7
    assert said["metrics"] == {"eval/loss": 0.5}
    assert said["retention"] == {"keep": 2, "monitor": "eval/loss", "mode": "min"}
    assert {name: file["size"] for name, file in said["files"].items()} == sizes
    assert said["environment"] == environment
    assert said["policies"]["mc_predict"]["dropout"] is True
    assert said["policies"]["eval"]["writes"] == ["metrics"]


def test_no_directory_is_no_checkpoint(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path / "none")
    assert checkpoints.steps() == []
    assert not checkpoints.is_begun()
    assert not (tmp_path / "none").exists()


def test_only_committed_directories_count(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 2, 10)
    for name in (".writing_00000020_1", "superseded_step_00000030_1", "damaged_step_00000030_1", "step_", "step_x"):
        (tmp_path / name).mkdir()
    (tmp_path / "step_00000040").write_text("a file")
    assert checkpoints.steps() == [2, 10]


def test_the_newest_are_kept(tmp_path: pathlib.Path) -> None:
    assert saved(tmp_path, 1, 2, 3, 4, 5, keep=2).steps() == [4, 5]


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 3)])
def test_the_best_is_kept_besides(tmp_path: pathlib.Path, mode: Any, best: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step, loss in enumerate([float("nan"), 0.1, 0.9, 0.5, 0.4, 0.3], start=1):
        metrics = {"eval/loss": loss}
        checkpoints.save(tf.train.Checkpoint(), step=step, metrics=metrics, keep=2, monitor="eval/loss", mode=mode)
    assert checkpoints.steps() == [best, 5, 6]
    assert checkpoints.find("best") == best


def test_what_was_saved_for_good_is_kept_for_good(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in range(1, 8):
        checkpoints.save(tf.train.Checkpoint(), step=step, keep=1, for_good=step % 3 == 0)
    assert checkpoints.steps() == [3, 6, 7]


def test_what_nobody_can_judge_is_not_deleted(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = saved(tmp_path, 1, keep=1)
    (checkpoints.path(1) / manifest.NAME).write_text("")
    with caplog.at_level(logging.WARNING):
        checkpoints.save(tf.train.Checkpoint(), step=2, keep=1, metrics={"loss": 1.0}, monitor="loss")
        assert checkpoints.steps() == [1, 2]
    assert "manifest.json is no manifest; that checkpoint is kept as it is" in caplog.text
    with pytest.raises(
        CheckpointDamaged, match=r"restore: the checkpoint 'best' is damaged: .*00001/manifest.json is no"
    ):
        checkpoints.find("best")


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
    for again in (50.0, 500.0):
        checkpoints.save(tf.train.Checkpoint(value=tf.Variable(again)), step=5)
        assert value_in(checkpoints, checkpoints.find(5)) == again
        assert names(tmp_path) == {"step_00000005"}


def test_what_a_run_goes_back_behind_is_moved_aside(tmp_path: pathlib.Path) -> None:
    checkpoints = saved(tmp_path, 5, 10, 15, keep=9)
    checkpoints.supersede(after=5)
    assert checkpoints.steps() == [5]
    assert names(tmp_path) == {"step_00000005", "superseded_step_00000010_1", "superseded_step_00000015_1"}
    saved(tmp_path, 10)
    checkpoints.supersede(after=5)
    assert "superseded_step_00000010_2" in names(tmp_path), "nothing is written over"


def test_a_kill_while_they_are_moved_aside_leaves_no_newer_one(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, moved = saved(tmp_path, 5, 10, 15, keep=9), []
    rename = pathlib.Path.rename

    def dies(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        if moved:
            raise KeyboardInterrupt
        moved.append(path.name)
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.supersede(after=5)
    assert (moved, checkpoints.steps()) == (["step_00000015"], [5, 10])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("two")
    saved(directory, 1, 2, metrics={"loss": 1.0}, monitor="loss")
    return directory


DAMAGES: dict[str, Callable[[pathlib.Path], object]] = {
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-9] + b"!" + path.read_bytes()[-8:]),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("name", ["state.index", "state.data-00000-of-00001", manifest.NAME])
def test_from_a_damaged_checkpoint_the_latest_falls_back_and_nothing_begins_anew(
    tmp_path: pathlib.Path,
    two: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    damage: Callable[[pathlib.Path], object],
) -> None:
    directory = tmp_path / "checkpoints"
    shutil.copytree(two, directory)
    checkpoints = Checkpoints(directory)
    hurt = checkpoints.path(2) / name
    damage(hurt)
    with pytest.raises(CheckpointDamaged, match=rf"^restore: the checkpoint 2 is damaged: {hurt} .*holds 1, 2"):
        checkpoints.find(2)
    assert names(directory) == {"step_00000001", "step_00000002"}, "who asks for one step gets that or an error"
    with caplog.at_level(logging.WARNING):
        assert checkpoints.find("latest") == 1
    assert f"restore: passed over step 2: {hurt} " in caplog.text
    assert "its directory is " + str(directory / "damaged_step_00000002_1") in caplog.text
    assert "the newest checkpoint that is whole is that of step 1" in caplog.text
    assert names(directory) == {"step_00000001", "damaged_step_00000002_1"}
    assert value_in(checkpoints, 1) == 1.0
    damage(checkpoints.path(1) / name)
    for _ in range(2):
        with pytest.raises(CheckpointDamaged, match=rf"^restore: no checkpoint in .* is whole: step 1: .*/{name} "):
            checkpoints.find("latest")
    shutil.rmtree(checkpoints.path(1))
    assert checkpoints.is_begun()
    with pytest.raises(CheckpointDamaged, match=r"holds no checkpoint but damaged ones \(damaged_step_00000002_1\)"):
        checkpoints.find("latest")


def test_the_best_that_is_damaged_is_an_error(tmp_path: pathlib.Path, two: pathlib.Path) -> None:
    shutil.copytree(two, tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    (checkpoints.path(1) / "state.index").write_bytes(b"")
    with pytest.raises(
        CheckpointDamaged, match=r"^restore: the checkpoint 'best' is damaged: .*00001/state.index has 0"
    ):
        checkpoints.find("best")


def test_a_checkpoint_under_the_name_of_another_step_is_damaged(tmp_path: pathlib.Path, two: pathlib.Path) -> None:
    shutil.copytree(two / "step_00000001", tmp_path / "step_00000009")
    with pytest.raises(CheckpointDamaged, match=r"00009/manifest.json is that of step 1\b"):
        Checkpoints(tmp_path).find(9)


def test_a_reader_who_may_not_rename_still_falls_back(
    tmp_path: pathlib.Path, two: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(two, tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    (checkpoints.path(2) / "state.index").write_bytes(b"")
    monkeypatch.setattr("os.rename", failing(PermissionError(13, "Permission denied")))
    with caplog.at_level(logging.WARNING):
        assert checkpoints.find("latest") == 1
    assert "its directory could not be renamed (Permission denied)" in caplog.text


def test_what_the_run_has_just_retired_is_not_damaged(
    tmp_path: pathlib.Path, two: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody evaluates a run that goes on: what was the latest is gone before it is read."""
    shutil.copytree(two, tmp_path / "checkpoints")
    verify = Store.verify

    def later(store: Store, step: int) -> None:
        if step == 2:
            saved(store.directory, 3, keep=1)
        verify(store, step)

    monkeypatch.setattr(Store, "verify", later)
    assert Checkpoints(tmp_path / "checkpoints").find("latest") == 3
    assert not caplog.records


def failing(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Holds whatever is written in the background until the event is set."""
    goes_on, write = threading.Event(), Snapshot.write

    def wait_and_write(snapshot: Snapshot, prefix: str) -> None:
        assert goes_on.wait(PATIENCE)
        write(snapshot, prefix)

    monkeypatch.setattr(Snapshot, "write", wait_and_write)
    yield goes_on
    goes_on.set()


def test_a_save_holds_the_values_of_its_moment(tmp_path: pathlib.Path, held: threading.Event) -> None:
    """Also of variables that were created after the first save."""
    checkpoints, model, python = Checkpoints(tmp_path), tf.Module(), {"reports": 0}
    model.early = tf.Variable(tf.zeros([100]))
    iterator = iter(tf.data.Dataset.range(10))
    host = HostState(lambda: python, python.update)
    state = tf.train.Checkpoint(model=model, iterator=iterator, host=host)

    def change(step: int) -> None:
        for variable in model.variables:
            variable.assign(tf.fill([100], float(step)))
        python["reports"] = step
        next(iterator)

    for step in (1, 2, 3):
        held.clear()
        change(step)
        checkpoints.save(state, step=step)
        change(-step)
        if step == 1:
            model.late = tf.Variable(tf.zeros([100]))
        held.set()
        checkpoints.wait()
    with pytest.raises(ValueError, match="model/late was not saved"):
        checkpoints.restore(state, 1)
    for step in (2, 3):
        checkpoints.restore(state, step)
        assert [set(variable.numpy()) for variable in (model.early, model.late)] == [{step}, {step}]
        assert python == {"reports": step}
        assert next(iterator).numpy() == 2 * step - 1


def test_a_save_returns_before_anything_is_written(tmp_path: pathlib.Path, held: threading.Event) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0)), step=1)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    held.set()
    assert checkpoints.steps() == [1], "whoever asks waits"


def test_one_save_at_a_time(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints, done = Checkpoints(tmp_path), []
    second_waits, wait, write, copy = threading.Event(), Checkpoints.wait, Snapshot.write, Snapshot.__init__

    def waits(self: Checkpoints) -> None:
        if self._saving is not None:
            second_waits.set()
        wait(self)

    def writes(snapshot: Snapshot, prefix: str) -> None:
        assert second_waits.wait(PATIENCE)
        write(snapshot, prefix)
        done.append("written")

    def copies(snapshot: Snapshot, checkpoint: tf.train.Checkpoint) -> None:
        done.append("copied")
        copy(snapshot, checkpoint)

    monkeypatch.setattr(Checkpoints, "wait", waits)
    monkeypatch.setattr(Snapshot, "write", writes)
    monkeypatch.setattr(Snapshot, "__init__", copies)
    for step in (1, 2):
        checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0)), step=step)
    checkpoints.wait()
    assert done == ["copied", "written", "copied", "written"]


class SavedTheOldWay(tf.Module):
    """What TensorFlow alone knows how to save."""

    def __init__(self) -> None:
        super().__init__()
        self.value = tf.Variable(1.0)
        self._self_saveable_object_factories = {"SAVED": lambda name="": tf.Variable(5.0)}


def test_what_cannot_be_copied_is_written_while_training_waits(tmp_path: pathlib.Path) -> None:
    checkpoints, part = Checkpoints(tmp_path), SavedTheOldWay()
    checkpoints.save(tf.train.Checkpoint(part=part), step=1)
    part.value.assign(2.0)
    files = tf.train.load_checkpoint(str(checkpoints.path(1) / "state"))
    assert files.get_tensor("part/value/.ATTRIBUTES/VARIABLE_VALUE") == 1.0
    assert "part/.ATTRIBUTES/SAVED" in files.get_variable_to_shape_map()


def test_no_position_of_an_iterator_lies_in_a_file_without_a_hash(tmp_path: pathlib.Path) -> None:
    """Reading it where a bit of it is wrong can end the process, so it has to be known to be whole before."""
    checkpoints, iterator = Checkpoints(tmp_path), iter(tf.data.Dataset.range(9).shuffle(5, seed=1))
    parts: dict[int, dict[str, Any]] = {1: {}, 2: {"part": SavedTheOldWay()}}  # the second cannot be copied
    for step, more in parts.items():
        checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0), iterator=iterator, **more), step=step)
    unhashed = {
        step: {name for name, noted in checkpoints.manifest(step)["files"].items() if "sha256" not in noted}
        for step in parts
    }
    assert unhashed == {1: {"state.data-00000-of-00002"}, 2: set()}


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), tf.errors.ResourceExhaustedError(None, None, "No space left")]
)
def test_a_save_that_fails_is_told_once_and_the_next_one_works(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    checkpoints = saved(tmp_path, 1, keep=1)
    with monkeypatch.context() as broken:
        broken.setattr(tf.train.Checkpoint, "write", failing(error))
        checkpoints.save(tf.train.Checkpoint(), step=2, keep=1)
        assert checkpoints.steps() == [1]
    assert names(tmp_path) == {"step_00000001"}, "nothing is left of it"
    with pytest.raises(
        CheckpointNotSaved, match=r"^the checkpoint of step 2 was not saved in .*No space left.* Make ro"
    ):
        checkpoints.save(tf.train.Checkpoint(), step=3, keep=1)
    assert checkpoints.find("latest") == 1
    checkpoints.save(tf.train.Checkpoint(), step=4, keep=1)
    checkpoints.wait()
    assert names(tmp_path) == {"step_00000004"}


def test_a_directory_that_cannot_be_made_is_told(tmp_path: pathlib.Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(tf.train.Checkpoint(), step=1)
    with pytest.raises(CheckpointNotSaved, match="step 1 was not saved"):
        checkpoints.wait()


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, "seal", failing(TypeError("not JSON")))
    checkpoints.save(tf.train.Checkpoint(), step=1)
    with pytest.raises(TypeError, match="not JSON"):
        checkpoints.wait()


def test_metrics_may_be_numpys(tmp_path: pathlib.Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        tf.train.Checkpoint(value=tf.Variable(1.0)), step=1, metrics={"a": np.float32(0.5), "b": np.array(2), "c": [1]}
    )
    assert checkpoints.manifest(1)["metrics"] == {"a": 0.5, "b": 2.0}


@pytest.mark.parametrize("name", ["state.index", "state.data-00000-of-00001"])
def test_what_cannot_be_read_is_passed_over_and_keeps_its_name(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0)), step=step)
    checkpoints.wait()
    unreadable, open_path, load = checkpoints.path(2) / name, pathlib.Path.open, tf.train.load_checkpoint

    def fails_on_the_newest(path: pathlib.Path, *args: Any, **kwargs: Any) -> Any:
        if path == unreadable:
            raise OSError(5, "Input/output error")
        return open_path(path, *args, **kwargs)

    def fails_to_load_it(prefix: str) -> Any:
        if pathlib.Path(prefix).parent == unreadable.parent:
            raise tf.errors.UnknownError(None, None, "Input/output error")
        return load(prefix)

    monkeypatch.setattr(pathlib.Path, "open", fails_on_the_newest)
    monkeypatch.setattr(tf.train, "load_checkpoint", fails_to_load_it)
    assert checkpoints.find("latest") == 1
    assert checkpoints.steps() == [1, 2]
