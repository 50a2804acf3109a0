"""What happens between the command line and a program's `main`, and how the program ends."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from logging import INFO, LogRecord
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_dict

from trainloop.launch import command_line, config_record
from trainloop.launch.config_file import to_plain
from trainloop.launch.errors import LaunchError
from trainloop.workdir import Workdir, WorkdirLocked

Main = Callable[[config_dict.ConfigDict, str], Any]

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
INTERRUPTED = 130  # What a shell reports for a program that Ctrl-C ended,
TERMINATED = 143  # and for one that SIGTERM did.


def run(
    main: Main, *, read_only: bool = False, without_workdir: bool = False, in_other_processes: bool = False
) -> NoReturn:
    """Parses the command line and calls `main(config, workdir)`, inside the strategy, with precision and seeds set.

    Everything the command line says is checked before TensorFlow is imported and before anything is written. The config
    is then recorded in the workdir; a workdir that holds a run with another config is refused. Of the config, `launch`
    itself reads `precision` (`"float32"`, `"mixed_float16"` or `"mixed_bfloat16"`), `seed` (0 where it is missing), and
    the run length, which `--steps` replaces.

    Args:
      main: Called with the locked `ConfigDict` and the workdir's path. What it returns is the exit status.
      read_only: Whether `main` only reads a run: the workdir must hold one, `--config` may be left out and is then the
        recorded one, nothing is recorded, and `--steps` bounds the passes over the data.
      without_workdir: Whether `main` neither makes nor reads a run: there is no `--workdir`, `main` gets a throw-away
        one, and without `--config` an empty config.
      in_other_processes: Whether `main`, one without a workdir, leaves the work to other processes (`Recipe`):
        TensorFlow is then not imported for it, and nothing is set.

    Raises:
      SystemExit: Always: 0 where `main` returns None, 2 where the command line is wrong or the workdir is in use, 130
        after Ctrl-C, 143 after SIGTERM.
    """
    sys.path.insert(0, os.getcwd())  # as `python -m` does: what a config names may lie where the command is typed
    command_line.define(read_only, without_workdir)
    start = functools.partial(
        _start, read_only=read_only, without_workdir=without_workdir, in_other_processes=in_other_processes
    )
    app.run(lambda argv: start(main), flags_parser=command_line.parse)
    raise AssertionError("absl.app.run returned")


def _start(main: Main, *, read_only: bool, without_workdir: bool, in_other_processes: bool) -> Any:
    try:
        if without_workdir:
            config = _checked(flags.FLAGS.config or config_dict.ConfigDict())
            here = contextlib.nullcontext() if in_other_processes else _prepared(config)
            with tempfile.TemporaryDirectory(prefix="trainloop-") as directory, here:
                return main(config, directory)
        if flags.FLAGS.config is None and not read_only:
            raise LaunchError(
                "--config is missing: a Python file with get_config(), for example --config=configs/digits.py"
            )
        workdir = _checked_workdir(read_only)
        config = _config(workdir, read_only)
        with _place(workdir, config, read_only) as place, _prepared(config):
            return main(config, str(place))
    except WorkdirLocked as error:
        command_line.refuse(f"--{error}")
    except LaunchError as error:
        command_line.refuse(str(error))
    except KeyboardInterrupt:
        _say_stopped()
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == TERMINATED:
            _say_stopped()
        raise


def _checked_workdir(read_only: bool) -> Workdir | None:
    given = flags.FLAGS.workdir
    if given is None and not read_only and flags.FLAGS.dry_run:
        return None
    if not given:
        raise LaunchError("--workdir is missing: the directory of the run, for example --workdir=runs/digits")
    workdir = Workdir(given)
    if os.path.lexists(given) and not workdir.path.is_dir():
        raise LaunchError(f"--workdir={given} is a file; expected a directory, or a path that does not exist yet")
    if read_only and not workdir.path.exists():
        raise LaunchError(f"--workdir={given} does not exist; expected the directory of a run")
    return workdir


def _config(workdir: Workdir | None, read_only: bool) -> config_dict.ConfigDict:
    config = flags.FLAGS.config
    if config is None:
        assert workdir is not None
        recorded = config_record.read(workdir)
        if recorded is None:
            raise LaunchError(f"--workdir={workdir} holds no config.json; give the run's --config=FILE too")
        config = config_dict.ConfigDict(recorded)
    if flags.FLAGS.steps is not None and not read_only:
        with config.unlocked(), config.ignore_type():
            config.steps = flags.FLAGS.steps
            if "epochs" in config:
                del config.epochs
    return _checked(config)


def _checked(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    if config.get("precision", PRECISIONS[0]) not in PRECISIONS:
        raise LaunchError(f"config.precision={config.precision!r}: expected one of {', '.join(PRECISIONS)}")
    seed = config.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise LaunchError(f"config.seed={seed!r}: expected a whole number")
    return config.lock()


@contextlib.contextmanager
def _place(workdir: Workdir | None, config: config_dict.ConfigDict, read_only: bool) -> Iterator[Workdir]:
    """The workdir that `main` gets: the run's own with its config recorded, or a throw-away one."""
    plain = to_plain(config)
    if read_only:
        assert workdir is not None
        yield workdir
        return
    if workdir is not None and not flags.FLAGS.allow_config_change:
        config_record.check(workdir, plain)
    if flags.FLAGS.dry_run:
        with tempfile.TemporaryDirectory(prefix="trainloop-dry-run-") as directory:
            yield Workdir(directory)
        sys.stdout.write("dry run: every phase and callback ran; nothing was kept\n")
        return
    assert workdir is not None
    with config_record.recorded(workdir, plain):
        yield workdir


def _prepared(config: config_dict.ConfigDict) -> contextlib.AbstractContextManager[None]:
    return prepared(config, strategy=flags.FLAGS.strategy, verbose_tf=flags.FLAGS.verbose_tf)


@contextlib.contextmanager
def prepared(config: config_dict.ConfigDict, *, strategy: str, verbose_tf: bool) -> Iterator[None]:
    """TensorFlow imported, its precision and seeds set, and the strategy's scope entered.

    Args:
      config: Of which `precision` and `seed` are read.
      strategy: One of `command_line.STRATEGIES`.
      verbose_tf: Whether TensorFlow may tell of its start-up.
    """
    if not verbose_tf:
        logging.get_absl_logger().addFilter(_is_worth_telling)
    with contextlib.nullcontext() if verbose_tf else quiet_start():
        import tensorflow as tf
        import tf_keras

        tf.config.list_physical_devices()  # Looks for CUDA, and complains aloud where there is none.
    tf_keras.mixed_precision.set_global_policy(config.get("precision", PRECISIONS[0]))
    tf_keras.utils.set_random_seed(config.get("seed", 0))
    with contextlib.ExitStack() as stack:
        if strategy == "mirrored":
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            stack.enter_context(tf.distribute.MirroredStrategy([device.name for device in devices]).scope())
        yield


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Swallows what TensorFlow's libraries write to stderr while they are loaded, unless that fails.

    They write it before they have read any log level, so only the descriptor can be silenced.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # Later on: errors only.
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as swallowed:
        os.dup2(swallowed.fileno(), 2)
        try:
            yield
        except Exception:
            swallowed.seek(0)
            os.write(stderr, swallowed.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _is_worth_telling(record: LogRecord) -> bool:
    return record.levelno > INFO or "/tensorflow/" not in record.pathname


def _say_stopped() -> None:
    if flags.FLAGS.find_module_defining_flag("workdir") != command_line.__name__:  # no run of which launch knows
        sys.stderr.write("stopped\n")
    elif (step := _newest_step()) is None:
        sys.stderr.write("stopped before the first checkpoint; run the same command again to start over\n")
    else:
        sys.stderr.write(f"stopped at step {step}; run the same command again to continue\n")


def _newest_step() -> int | None:
    if not flags.FLAGS.workdir:
        return None
    from trainloop.checkpoint import Checkpoints  # Imports TensorFlow.

    return max(Checkpoints(Workdir(flags.FLAGS.workdir).checkpoints).steps(), default=None)
