"""The directory of checkpoints: whatever interrupts a save, a whole checkpoint is there, and the next save works."""

import io
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trainloop import manifest
from trainloop.store import Retention, Store

CALLS = [(os, name) for name in ("mkdir", "open", "fsync", "rename", "unlink", "rmdir", "scandir")] + [(io, "open")]


def fields(metrics: dict[str, float] | None = None, *, kept_for_good: bool = False) -> dict[str, Any]:
    return {"metrics": metrics or {}, "kept_for_good": kept_for_good}


def commit(store: Store, step: int, content: str = "", keep: int = 1) -> None:
    def write(prefix: str) -> None:
        for name in ("data", "index"):
            pathlib.Path(f"{prefix}.{name}").write_text(f"{name} of {content or step}")

    store.commit(step, write, fields(), Retention(keep))


def content(store: Store, step: int) -> str:
    store.verify(step)
    return (store.path(step) / "state.data").read_text().removeprefix("data of ")


def names(directory: pathlib.Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


class Killed(BaseException):
    """Stands for the end of the process."""


class Faults:
    """Counts the calls that reach the file system, and raises instead of making some of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls = 0
        self.fails: Callable[[int], BaseException | None] = lambda number: None
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
        for module, name in CALLS:
            monkeypatch.setattr(module, name, self._watched(getattr(module, name)))

    def _watched(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if (error := self.fails(self.calls)) is not None:
                raise error
            return call(*args, **kwargs)

        return watched


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    watched = Faults(monkeypatch)
    yield watched
    watched.fails = lambda number: None


# What is there before, what is saved, and which content of each step is right afterwards: the old or the new one.
SAVES = {
    "the first": ([], (5, "new"), [{}, {5: "new"}]),
    "the next": ([(5, "old")], (10, "new"), [{5: "old"}, {5: "old", 10: "new"}, {10: "new"}]),
    "the same step": ([(5, "old")], (5, "new"), [{5: "old"}, {5: "new"}]),
}


def prepared(directory: pathlib.Path, before: list[tuple[int, str]]) -> Store:
    store = Store(directory / "checkpoints")
    for step, what in before:
        commit(store, step, what)
    return store


def each_call(faults: Faults, directory: pathlib.Path, before: list[Any], save: tuple[int, str]) -> Iterator[Any]:
    """Yields a store for each call that a save makes, with the number of that call."""
    store = prepared(directory / "counted", before)
    faults.calls = 0
    commit(store, *save)
    for number in range(1, faults.calls + 1):
        store = prepared(directory / str(number), before)
        faults.calls = 0
        yield store, number


@pytest.mark.parametrize(("before", "save", "right"), SAVES.values(), ids=list(SAVES))
def test_a_kill_at_any_call_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: pathlib.Path, faults: Faults, before: list[Any], save: tuple[int, str], right: list[dict[int, str]]
) -> None:
    seen = []
    for store, number in each_call(faults, tmp_path, before, save):
        faults.fails = lambda call, number=number: Killed() if call >= number else None  # no clean-up comes through
        with pytest.raises(Killed):
            commit(store, *save)
        faults.fails = lambda call: None
        again = Store(store.directory)
        found = {step: content(again, step) for step in again.steps()}
        assert found in right, f"after a kill at call {number}"
        seen.append(found)
        commit(again, 15)
        assert names(store.directory) == {"step_00000015"}, f"after a kill at call {number}"
        assert content(again, 15) == "15"
    assert [each for each in right if each not in seen] == [], "each outcome is met somewhere"


@pytest.mark.parametrize(("before", "save", "right"), SAVES.values(), ids=list(SAVES))
@pytest.mark.parametrize("is_for_good", [False, True], ids=["one error", "errors from there on"])
def test_an_error_at_any_call_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: pathlib.Path,
    faults: Faults,
    before: list[Any],
    save: tuple[int, str],
    right: list[dict[int, str]],
    is_for_good: bool,
) -> None:
    for store, number in each_call(faults, tmp_path, before, save):
        faults.fails = lambda call, number=number: (
            OSError(28, "No space left on device") if call == number or (is_for_good and call > number) else None
        )
        try:
            commit(store, *save)
        except OSError:
            is_told = True
        else:
            is_told = False
        faults.fails = lambda call: None
        found = {step: content(store, step) for step in store.steps()}
        assert found in right, f"after an error at call {number}"
        assert is_told or found.get(save[0]) == save[1], f"an error at call {number} passed in silence"
        if is_told and not is_for_good:
            assert not list(store.directory.glob(".writing_*")), f"after an error at call {number}"
        commit(store, 15)
        assert names(store.directory) == {"step_00000015"}, f"after an error at call {number}"


def test_what_cannot_be_deleted_does_not_undo_a_save(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = prepared(tmp_path, [(5, "old")])
    rename = os.rename

    def refuse(source: pathlib.Path, target: pathlib.Path) -> None:
        if ".deleting" in target.name:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    commit(store, 10)
    assert store.steps() == [5, 10]
    assert "could not be deleted ([Errno 13] Permission denied)" in caplog.text


def test_the_order_is_one_that_a_power_cut_cannot_break(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, then the manifest, then the name, each forced to the disk before the next; deletions come last."""
    store, done = Store(tmp_path / "checkpoints"), list[str]()
    sync, rename, rmtree = manifest.sync, pathlib.Path.rename, shutil.rmtree

    def renamed(path: pathlib.Path, target: pathlib.Path) -> pathlib.Path:
        done.append(f"rename {target.name}")
        return rename(path, target)

    monkeypatch.setattr(manifest, "sync", lambda path: (done.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(pathlib.Path, "rename", renamed)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: (done.append(f"delete {path.name}"), rmtree(path)))
    commit(store, 5)
    assert done[0] == f"sync {tmp_path.name}", "the directory itself was new"
    done.clear()
    commit(store, 10)
    assert done == [
        "sync state.data",
        "sync state.index",
        "sync manifest.json",
        "sync .writing_00000010_1",
        "rename step_00000010",
        "sync checkpoints",
        "rename .deleting_step_00000005_1",
        "delete .deleting_step_00000005_1",
    ]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_the_system_calls_come_in_that_order(tmp_path: pathlib.Path) -> None:
    """What Python was asked for is what the kernel gets; the first save is of a real `tf.train.Checkpoint`."""
    program = f"""
import tensorflow as tf
from trainloop.checkpoint import Checkpoints
checkpoints = Checkpoints({str(tmp_path / "checkpoints")!r})
for step in (5, 10):
    checkpoints.save(tf.train.Checkpoint(value=tf.Variable(1.0)), step=step, keep=1)
    checkpoints.wait()
"""
    log = tmp_path / "log"
    calls = "trace=fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,rmdir"
    traced = ["strace", "-f", "-y", "--seccomp-bpf", "-e", calls, "-o", str(log), sys.executable, "-c", program]
    ran = subprocess.run(traced, timeout=120, capture_output=True, text=True, check=False)
    if "ptrace" in ran.stderr:
        pytest.skip("tracing is not allowed here")
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in log.read_text().splitlines() if "checkpoints/" in line or "checkpoints>" in line]
    second = next(i for i, line in enumerate(lines) if ".writing_00000010" in line)
    told = [told_of(line) for line in lines[second:]]
    told = [each for each in told if each is not None]
    assert told[:6] == [
        "sync state.data",
        "sync state.index",
        "sync manifest.json",
        "sync .writing",
        "rename step",
        "sync checkpoints",
    ]
    assert told[6] == "rename .deleting"
    assert set(told[7:]) == {"unlink"}


def told_of(line: str) -> str | None:
    """Returns what one line of strace says, or None for TensorFlow's own temporary files."""
    if "_temp" in line:
        return None
    if "fsync" in line:
        name = line.split("<")[1].split(">")[0].rsplit("/", 1)[1]
        return f"sync {name.split('_0')[0].split('-0')[0]}"
    if "rename" in line:
        *_, target, _ = line.split('"')
        return f"rename {target.rsplit('/', 1)[1].split('_')[0]}"
    return "unlink"
