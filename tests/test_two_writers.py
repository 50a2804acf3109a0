"""Many writers of one workdir, started together: one gets it, and nothing of another is ever in it."""

import contextlib
import fcntl
import json
import pathlib
import subprocess
import sys
import threading
import types

import pytest

from trainloop import workdir as workdir_module
from trainloop.workdir import Workdir, WorkdirLocked

ROUNDS, WRITERS = 100, 6

# Forks the writers of each round from a process that has imported nothing but the module, and lets them go at once.
PROGRAM = """
import importlib.util, json, os, pathlib, signal, sys
spec = importlib.util.spec_from_file_location("workdir", sys.argv[1])
module = importlib.util.module_from_spec(spec)
sys.modules["workdir"] = module
spec.loader.exec_module(module)
place, rounds, writers = pathlib.Path(sys.argv[2]), *map(int, sys.argv[3:])
inside = place.with_name("inside")


def forked(function):
    pid = os.fork()
    if pid:
        return pid
    signal.alarm(60)  # so that none outlives a round that went wrong
    try:
        function()
    finally:
        os._exit(0)


def work(workdir):
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    workdir.write_json(workdir.config, {"pid": os.getpid()})
    for step in range(3):
        workdir.append_jsonl(workdir.metrics, {"step": step, "pid": os.getpid()})


def writer(start, answers, end):
    os.read(start, 1)
    workdir = module.Workdir(place)
    try:
        with workdir.lock():
            work(workdir)
            os.write(answers, f"locked {os.getpid()}\\n".encode())
            os.read(end, 1)
            inside.unlink()
    except module.WorkdirLocked as error:
        os.write(answers, f"refused {error.owner.get('pid')}\\n".encode())


for number in range(rounds):
    (start, go), (heard, answers), (end, leave) = os.pipe(), os.pipe(), os.pipe()
    pids = [forked(lambda: writer(start, answers, end)) for _ in range(writers)]
    os.write(go, b"x" * writers)
    told = b""
    while told.count(b"\\n") < writers:
        told += os.read(heard, 4096)
    answered = told.decode().split("\\n")[:-1]
    [holder] = [int(line.split()[1]) for line in answered if line.startswith("locked")]
    if number % 2:  # it dies with the lock in its hand, and its name stays behind
        os.kill(holder, signal.SIGKILL)
        inside.unlink()
    else:
        os.write(leave, b"x")
    for pid in pids:
        os.waitpid(pid, 0)
    for descriptor in (start, go, heard, answers, end, leave):
        os.close(descriptor)
    lines = [json.loads(line)["pid"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    config = json.loads((place / "config.json").read_text())["pid"]
    (place / "metrics.jsonl").unlink()
    print(json.dumps({"answers": answered, "lines": lines, "config": config, "holder": holder}), flush=True)

"""


def test_of_writers_that_start_together_one_gets_the_workdir(tmp_path: pathlib.Path) -> None:
    """In every second round the one before was killed with the lock in its hand."""
    numbers = map(str, (ROUNDS, WRITERS))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, workdir_module.__file__, str(tmp_path / "run"), *numbers],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rounds = [json.loads(line) for line in done.stdout.splitlines()]
    for each in rounds:
        assert sorted(answer.split()[0] for answer in each["answers"]) == ["locked"] + ["refused"] * (WRITERS - 1)
        assert {answer.split()[1] for answer in each["answers"]} == {str(each["holder"])}
        assert each["lines"] == [each["holder"]] * 3
        assert each["config"] == each["holder"]
    assert len({each["holder"] for each in rounds}) == ROUNDS


def test_the_lock_of_a_file_that_its_holder_has_deleted_is_none(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails before it has begun takes its lock file away: a third writer may hold the next one by then."""
    flock = fcntl.flock

    def after_the_holder_has_left(descriptor: int, operation: int) -> None:
        (tmp_path / "LOCK").unlink()
        flock(descriptor, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", after_the_holder_has_left)
        with pytest.raises(WorkdirLocked), Workdir(tmp_path).lock():
            pass
    with Workdir(tmp_path).lock():
        pass


def test_threads_exclude_each_other(tmp_path: pathlib.Path) -> None:
    barrier, tried, holders, refused = threading.Barrier(8), threading.Barrier(8), [], []

    def write() -> None:
        barrier.wait()
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(Workdir(tmp_path).lock())
                holders.append(1)
            except WorkdirLocked as error:
                refused.append(str(error))
            tried.wait()  # whoever has the lock keeps it until all have tried

    for _ in range(10):
        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (len(holders), len(refused)) == (10, 70)
    assert all("in use by this same process" in message for message in refused)


@pytest.mark.parametrize("content", ["", '{"host": "cut'])
def test_an_owner_that_leaves_no_name_is_waited_for_less_than_a_second(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    now = [100.0]
    clock = types.SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds))
    with Workdir(tmp_path).lock():
        (tmp_path / "LOCK").write_text(content)
        monkeypatch.setattr(workdir_module, "time", clock)
        with pytest.raises(WorkdirLocked, match="no name"), Workdir(tmp_path).lock():
            pass
    assert 100.3 < now[0] < 100.9
