"""The workdir: its lock, and files that a crash cannot tear."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from trainloop import workdir as workdir_module
from trainloop.workdir import Workdir, WorkdirLocked

# The module is run by its path, so that these processes start without TensorFlow.
OTHER_PROCESS = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("workdir", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["workdir"] = module
spec.loader.exec_module(module)
started = time.monotonic()
try:
    with module.Workdir(sys.argv[2]).lock():
        print("locked", flush=True)
        sys.stdin.read()
except module.WorkdirLocked as error:
    print("refused", time.monotonic() - started, error, flush=True)
"""


def start(directory: os.PathLike[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, workdir_module.__file__, os.fspath(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_paths_lie_inside_the_run(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path)
    names = {
        workdir.config: "config.json",
        workdir.metrics: "metrics.jsonl",
        workdir.phases: "phases.jsonl",
        workdir.contract: "contract.json",
        workdir.events: "events",
        workdir.checkpoints: "checkpoints",
        workdir.predictions: "predictions.npz",
        workdir.report: "report.html",
        workdir.lock_file: "LOCK",
    }
    assert all(path == tmp_path / name for path, name in names.items())
    assert os.fspath(workdir) == str(workdir) == str(tmp_path)


def test_nothing_is_written_by_the_constructor(tmp_path: pathlib.Path) -> None:
    Workdir(tmp_path / "run").metrics  # noqa: B018
    assert not (tmp_path / "run").exists()


def test_create_makes_parents_and_may_be_repeated(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path / "a" / "b")
    workdir.create()
    workdir.create()
    assert workdir.path.is_dir()


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_workdir_that_is_a_file_is_refused(tmp_path: pathlib.Path, below: str) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(NotADirectoryError, match=r"workdir='.*file.*is a file, expected a directory"):
        Workdir(file / below).create()
    assert file.read_text() == "kept"


def test_write_json_replaces_whole_and_leaves_no_other_file(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path / "run")
    workdir.write_json(workdir.config, {"rate": np.float32(0.5), "sizes": np.arange(2), "data": pathlib.Path("x")})
    assert json.loads(workdir.config.read_text()) == {"rate": 0.5, "sizes": [0, 1], "data": "x"}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        workdir.write_json(workdir.config, {"function": print})
    assert json.loads(workdir.config.read_text())["rate"] == 0.5
    assert os.listdir(workdir) == ["config.json"]


def test_write_json_that_fails_half_way_keeps_the_old_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workdir = Workdir(tmp_path)
    workdir.write_json(workdir.config, 1)

    def full_disk(descriptor: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        workdir.write_json(workdir.config, 2)
    assert json.loads(workdir.config.read_text()) == 1
    assert os.listdir(workdir) == ["config.json"]


def test_cut_jsonl_drops_later_records_and_a_torn_line(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path)
    for step in (1, 2, 2, 3):
        workdir.append_jsonl(workdir.metrics, {"step": step, "metrics": {"loss": np.float32(1)}})
    workdir.append_jsonl(workdir.metrics, {"note": "no step"})
    with open(workdir.metrics, "a") as file:
        file.write('{"step": 2, "met')
    workdir.cut_jsonl(workdir.metrics, step=2)
    records = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    assert [record.get("step") for record in records] == [1, 2, 2, None]


def test_cut_jsonl_drops_a_last_line_torn_at_its_line_end(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.metrics.write_text('{"step": 1}\n{"step": 2}')
    workdir.cut_jsonl(workdir.metrics, step=2)
    assert workdir.metrics.read_text() == '{"step": 1}\n'


def test_cut_jsonl_leaves_a_missing_file_missing(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path)
    workdir.cut_jsonl(workdir.metrics, step=0)
    assert not workdir.metrics.exists()


def test_the_lock_nests_and_names_its_owner(tmp_path: pathlib.Path) -> None:
    workdir = Workdir(tmp_path / "run")
    with workdir.lock():
        with workdir.lock():
            owner = json.loads(workdir.lock_file.read_text())
        assert workdir.lock_file.read_text()
        with pytest.raises(WorkdirLocked, match="this same process"), Workdir(workdir).lock():
            pass
    assert owner.keys() == {"host", "pid", "started", "command"}
    assert owner["pid"] == os.getpid()
    assert workdir.lock_file.read_text() == ""
    with Workdir(workdir).lock():
        pass


def test_an_exception_frees_the_lock(tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyError), Workdir(tmp_path).lock():
        raise KeyError
    with Workdir(tmp_path).lock():
        pass


def test_another_process_is_refused_and_told_who_holds_it(tmp_path: pathlib.Path) -> None:
    with Workdir(tmp_path).lock(), start(tmp_path) as process:
        answer = first_line(process)
        process.communicate(timeout=10)
    assert answer.startswith("refused")
    assert float(answer.split()[1]) < 1
    assert f"workdir='{tmp_path}' is in use by process {os.getpid()} on " in answer


def test_a_killed_owner_frees_its_lock(tmp_path: pathlib.Path) -> None:
    process = start(tmp_path)
    try:
        assert first_line(process) == "locked\n"
        with pytest.raises(WorkdirLocked) as refused, Workdir(tmp_path).lock():
            pass
        assert refused.value.owner["pid"] == process.pid
        assert "in use by process" in str(refused.value)
    finally:
        process.kill()
        process.communicate(timeout=10)
    assert json.loads((tmp_path / "LOCK").read_text())["pid"] == process.pid
    with Workdir(tmp_path).lock():
        pass


def test_a_forked_child_does_not_keep_the_lock(tmp_path: pathlib.Path) -> None:
    reading, writing = os.pipe()
    is_there, tells = os.pipe()
    lock = Workdir(tmp_path).lock()
    lock.__enter__()
    child = os.fork()
    if child == 0:
        os.close(writing)
        os.write(tells, b"1")
        os.read(reading, 1)  # Until the parent has tried.
        os._exit(0)
    try:
        os.read(is_there, 1)  # Until the child has begun, which is when it lets go.
        with pytest.raises(WorkdirLocked), Workdir(tmp_path).lock():
            pass
        lock.__exit__(None, None, None)
        with Workdir(tmp_path).lock():
            pass
    finally:
        for descriptor in (writing, reading, is_there, tells):
            os.close(descriptor)
        os.waitpid(child, 0)


def test_an_owner_without_a_name_is_waited_for_less_than_a_second(tmp_path: pathlib.Path) -> None:
    with Workdir(tmp_path).lock():
        (tmp_path / "LOCK").write_text('{"host": "cut')
        started = time.monotonic()
        with pytest.raises(WorkdirLocked, match="no name"), Workdir(tmp_path).lock():
            pass
    assert time.monotonic() - started < 1
