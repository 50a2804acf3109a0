"""The launch: what a command line is refused for, what is recorded of it, and what `main` gets."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from ml_collections import config_dict

from trainloop import launch
from trainloop.checkpoint import Checkpoints
from trainloop.launch import config_record, summary
from trainloop.triggers import Every
from trainloop.workdir import Workdir, WorkdirLocked

ROOT = Path(__file__).resolve().parent.parent

# Importing TensorFlow fails here: whatever these programs do, they do without it.
LIGHT = """
'''Does nothing.'''
import sys
sys.modules["tensorflow"] = None
from absl import flags
from trainloop import launch
flags.DEFINE_integer("own", 3, "a flag of this program")
launch.run(lambda config, workdir: None, read_only="{read_only}" == "True")
"""

CONFIG = """
from ml_collections import config_dict
def get_config(kind="plain"):
    return config_dict.ConfigDict({
        "task": "nowhere:task", "seed": 3, "precision": "float32", "epochs": 5, "learning_rate": 1e-3,
        "model": {"width": 8}, "kind": kind,
    })
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "config.py").write_text(CONFIG)
    (tmp_path / "light.py").write_text(LIGHT.format(read_only=False))
    (tmp_path / "light_reader.py").write_text(LIGHT.format(read_only=True))
    (tmp_path / "a_file").write_text("kept")
    return tmp_path


def run(place: Path, program: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, program, *flags],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "--config is missing: a Python file with get_config(), for example --config=configs/digits.py"),
        ("--config=config.py", "--workdir is missing: the directory of the run, for example --workdir=runs/digits"),
        (
            "--config=other.py --workdir=run",
            "flag --config=other.py: 'other.py' does not exist; expected a Python file",
        ),
        ("--config=. --workdir=run", "flag --config=.: '.' is a directory; expected a Python file with a get_config()"),
        ("--config=light.txt --workdir=run", "'light.txt' has no get_config() function; it must define one"),
        ("--config=number.txt --workdir=run", "get_config() in 'number.txt' returned 3; expected a ConfigDict"),
        (
            "--config=config.py --workdir=a_file",
            "--workdir=a_file is a file; expected a directory, or a path that does",
        ),
        ("--config=config.py --workdir=run --stesp=3", "Unknown command line flag 'stesp'; did you mean --steps?"),
        ("--config=config.py --workdir=run --steps=0", "flag --steps=0: 0 is not a positive integer"),
        ("--config=config.py --workdir=run --strategy=tpu", "--strategy=tpu: value should be one of <none|mirrored>"),
        ("--config=config.py --workdir=run more", "unexpected argument 'more'; flags are written --name=value"),
        (
            "--config=config.py --workdir=run --config.learnin_rate=1",
            "--config.learnin_rate: the config has no key 'learnin_rate'; did you mean --config.learning_rate?",
        ),
        ("--config=config.py --workdir=run --config.model.x=1", "has no key 'model.x'"),
        ("--config=config.py --workdir=run --config.seed=x", "flag --config.seed=x: invalid literal for int()"),
        (
            "--config.seed=1 --workdir=run",
            "--config.seed overrides a key of a config file, and --config=FILE is missing",
        ),
        ("--config=config.py --workdir=run --config.precision=int8", "'int8': expected one of float32, mixed_float16"),
    ],
)
def test_a_wrong_command_line_gets_one_line_and_writes_nothing(place: Path, flags: str, said: str) -> None:
    (place / "light.txt").write_text("x = 1")
    (place / "number.txt").write_text("def get_config(): return 3")
    result = run(place, "light.py", *flags.split())
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (place / "run").exists()
    assert (place / "a_file").read_text() == "kept"


def test_help_is_short_grouped_and_needs_no_tensorflow(place: Path) -> None:
    result = run(place, "light.py", "--help")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("Does nothing.")
    heads = ["what to run, and where", "\n  --config=FILE", "\n  --workdir=DIR", "this program", "\n  --own=N"]
    positions = [result.stdout.index(head) for head in heads]
    assert positions == sorted(positions)
    assert "--strategy=none|mirrored        how replicas share the work (default: none)" in result.stdout
    assert len(result.stdout.splitlines()) < 40


def test_an_error_in_the_config_file_surfaces_as_itself(place: Path) -> None:
    (place / "broken.py").write_text("def get_config():\n    raise ValueError('mine')")
    result = run(place, "light.py", "--config=broken.py", "--workdir=run")
    assert result.returncode == 1
    assert result.stderr.endswith("raise ValueError('mine')\nValueError: mine\n")


def test_a_run_with_another_config_is_refused_and_each_key_named(place: Path) -> None:
    config = {"task": "nowhere:task", "seed": 3, "precision": "float32", "steps": 50, "kind": "plain", "extra": None}
    workdir = Workdir(place / "run")
    workdir.write_json(workdir.config, {**config, "learning_rate": 1e-3, "model": {"width": 4}})
    result = run(place, "light.py", "--config=config.py", "--workdir=run", "--config.learning_rate=3e-4")
    assert result.returncode == 2
    for said in ("extra: was None, now not set", "learning_rate: was 0.001, now 0.0003", "model.width: was 4, now 8"):
        assert said in result.stderr
    for free in ("steps", "epochs", "seed"):
        assert f"  {free}: " not in result.stderr
    assert "--allow_config_change" in result.stderr
    assert json.loads(workdir.config.read_text())["learning_rate"] == 1e-3
    assert os.listdir(workdir) == ["config.json"]


def test_a_workdir_in_use_is_refused(place: Path) -> None:
    with Workdir(place / "run").lock():
        result = run(place, "light.py", "--config=config.py", "--workdir=run")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: --workdir='run' is in use by process {os.getpid()} on ")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("", "--workdir is missing"),
        ("--workdir=run", "--workdir=run does not exist; expected the directory of a run"),
        ("--workdir=empty", "--workdir=empty holds no config.json; give the run's --config=FILE too"),
        ("--workdir=torn", "'torn/config.json' is not JSON"),
        (
            "--workdir=empty --config=config.py --checkpoint=newest",
            "flag --checkpoint=newest: expected latest, best or a",
        ),
        ("--workdir=empty --config=config.py --dry_run", "Unknown command line flag 'dry_run'"),
    ],
)
def test_a_program_that_only_reads_a_run_is_refused(place: Path, flags: str, said: str) -> None:
    (place / "empty").mkdir()
    (place / "torn").mkdir()
    (place / "torn" / "config.json").write_text("{")
    result = run(place, "light_reader.py", *flags.split())
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert os.listdir(place / "empty") == []


def test_main_gets_the_config_inside_the_strategy_with_precision_and_seeds(place: Path) -> None:
    (place / "program.py").write_text("""
from trainloop import launch

def main(config, workdir):
    import tensorflow as tf, tf_keras
    print(config.to_json(), workdir)
    print(type(tf.distribute.get_strategy()).__name__, tf_keras.mixed_precision.global_policy().name)
    print(int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32)))

launch.run(main)
""")
    flags = ["--config=config.py:special", "--workdir=runs/a", "--steps=70", "--strategy=mirrored"]
    result = run(place, "program.py", *flags, "--config.precision=mixed_bfloat16", "--config.model.width=9")
    assert result.returncode == 0, result.stderr
    shown, names, draw = result.stdout.splitlines()
    config, workdir = shown.rsplit(" ", 1)
    assert workdir == "runs/a"
    assert json.loads(config) == json.loads((place / "runs" / "a" / "config.json").read_text())
    assert json.loads(config) == {
        "task": "nowhere:task", "seed": 3, "precision": "mixed_bfloat16", "steps": 70, "learning_rate": 1e-3,
        "model": {"width": 9}, "kind": "special",
    }  # fmt: skip
    assert names == "MirroredStrategy mixed_bfloat16"
    import tensorflow as tf
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    assert int(draw) == int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32))
    assert "I0000" not in result.stderr, "TensorFlow's start-up noise is silenced"


def test_a_failure_before_the_run_wrote_anything_leaves_no_workdir(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "run")

    def fails() -> None:
        assert json.loads(workdir.config.read_text()) == {"width": 8}
        raise KeyError

    with pytest.raises(KeyError), config_record.recorded(workdir, {"width": 8}):
        fails()
    assert not workdir.path.exists()


def test_a_failure_after_the_run_wrote_something_keeps_its_config(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "run")

    def fails() -> None:
        workdir.append_jsonl(workdir.metrics, {"step": 1})
        raise KeyError

    with pytest.raises(KeyError), config_record.recorded(workdir, {"width": 8}):
        fails()
    assert json.loads(workdir.config.read_text()) == {"width": 8}


def test_a_failure_of_a_later_start_keeps_the_run(tmp_path: Path) -> None:
    workdir = Workdir(tmp_path / "run")
    workdir.write_json(workdir.config, {"width": 8})
    with pytest.raises(KeyError), config_record.recorded(workdir, {"width": 8, "steps": 9}):
        raise KeyError
    assert json.loads(workdir.config.read_text()) == {"width": 8}  # the command that worked works again
    with workdir.lock(), pytest.raises(WorkdirLocked), config_record.recorded(Workdir(workdir), {}):
        pass


@pytest.mark.parametrize("key", config_record.FREE_KEYS)
def test_run_length_logging_and_callbacks_may_differ(tmp_path: Path, key: str) -> None:
    workdir = Workdir(tmp_path)
    workdir.write_json(workdir.config, {"sizes": (1, 2), key: {"a": 1}})
    config_record.check(workdir, {"sizes": (1, 2), key: {"a": 2}})
    config_record.check(workdir, {"sizes": (1, 2)})


TASK = """
from trainloop import launch

class Trainer:
    def __init__(self, *callbacks):
        self.callbacks = callbacks

class Callback:
    def __init__(self, trigger):
        self.trigger = trigger

def task(width, depth=2, *, workdir):
    return launch.Task(Trainer(width, depth, workdir), None)

def wrong(workdir):
    return 3

def whole(workdir):
    import numpy as np, tensorflow as tf
    from trainloop.triggers import AtEnd
    from trainloop import data
    numbers = tf.data.Dataset.range(9)
    trainer = Trainer(Callback(AtEnd()), Callback(None))
    return launch.Task(trainer, numbers, {"a": numbers}, data.from_arrays(np.zeros(9), batch_size=2), {"epochs": 9})
"""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "some_tasks.py").write_text(TASK)
    (tmp_path / "needs_more.py").write_text("import not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    return "some_tasks"


def test_build_calls_the_task_with_plain_python_values(tasks: str) -> None:
    config = config_dict.ConfigDict({"task": f"{tasks}:task", "precision": "float32", "width": {"a": [1]}})
    width, depth, workdir = launch.build(config, "runs/a").trainer.callbacks
    assert (width, depth, workdir) == ({"a": [1]}, 2, "runs/a")
    assert type(width) is dict


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "config.task=None: expected 'package.module:name'"),
        ({"task": "some_tasks"}, "config.task='some_tasks': expected 'package.module:name'"),
        ({"task": "nowhere.tasks:task"}, "there is no module 'nowhere' here; install its package"),
        ({"task": "some_tasks:tusk"}, "some_tasks has no function 'tusk'; did you mean 'task'?"),
        (
            {"task": "some_tasks:task", "widht": 3},
            "config key 'widht' is no argument of some_tasks:task; did you mean 'wi",
        ),
        ({"task": "some_tasks:task"}, "some_tasks:task needs the argument 'width', and the config has no such key"),
        ({"task": "some_tasks:task", "width": {"f": print}}, "config key 'width.f' is <built-in function print>"),
    ],
)
@pytest.mark.usefixtures("tasks")
def test_build_refuses_a_config_that_does_not_fit(config: dict[str, object], said: str) -> None:
    with pytest.raises(launch.LaunchError) as refused:
        launch.build(config_dict.ConfigDict(config), "runs/a")
    assert said in str(refused.value)


def test_build_lets_the_users_own_errors_through(tasks: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="not_installed"):
        launch.build(config_dict.ConfigDict({"task": "needs_more:task"}), "runs/a")
    with pytest.raises(TypeError, match=r"config.task='some_tasks:wrong' returned 3; expected a trainloop.launch.Task"):
        launch.build(config_dict.ConfigDict({"task": f"{tasks}:wrong"}), "runs/a")


def test_a_dry_run_shrinks_the_task(tasks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainloop.launch.task._is_dry_run", lambda: True)
    task = launch.build(config_dict.ConfigDict({"task": f"{tasks}:whole"}), "runs/a")
    assert task.fit == {"steps": 2, "eval_every": Every(steps=1)}
    assert {name: len(data) for name, data in task.sets.items()} == {"a": 2, "test": 2}
    assert [callback.trigger for callback in task.trainer.callbacks] == [Every(steps=1), None]


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Trainer:
        def restore(self, which: int | str) -> None:
            Checkpoints(tmp_path).find(which)

    monkeypatch.setattr("trainloop.launch.task.flags", SimpleNamespace(FLAGS=SimpleNamespace(checkpoint="7")))
    with pytest.raises(
        launch.LaunchError, match=r"--checkpoint=7: restore: there is no checkpoint 7; .* no checkpoint"
    ):
        launch.restore(launch.Task(Trainer(), None))


def test_the_sets_of_a_task() -> None:
    assert launch.Task(None, "t").sets == {}
    assert launch.Task(None, "t", "e").sets == {"eval": "e"}
    assert launch.Task(None, "t", {"a": 1, "b": 2}, "kept").sets == {"a": 1, "b": 2, "test": "kept"}


def test_command_with_replaces_flags_in_both_spellings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u"])
    monkeypatch.setattr(
        sys, "argv", ["scripts/train.py", "--steps=3", "--config=a b.py", "--steps", "4", "--workdir=w"]
    )
    assert summary.command_with(steps=9) == "python scripts/train.py '--config=a b.py' --workdir=w --steps=9"


def test_a_program_without_a_workdir_that_is_stopped_has_nothing_to_continue(place):
    program = "def main(config, workdir):\n    raise KeyboardInterrupt\n"
    program += "launch.run(main, without_workdir=True, in_other_processes=True)\n"
    (place / "stopped.py").write_text(LIGHT.partition("launch.run(")[0] + program)
    result = run(place, "stopped.py")
    assert (result.returncode, result.stderr) == (130, "stopped\n")
