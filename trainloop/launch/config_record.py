"""`config.json`: what a workdir's run was started with, and whether it may go on with another config."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from trainloop.launch.config_file import flatten
from trainloop.launch.errors import LaunchError
from trainloop.workdir import Workdir, WorkdirLocked

# How long a run is and what is told of it may change from one start to the next; anything else makes another run.
FREE_KEYS = ("steps", "epochs", "report_every", "eval_every", "callbacks", "logging")


def read(workdir: Workdir) -> dict[str, Any] | None:
    """Returns the recorded config, or None where there is none.

    Raises:
      LaunchError: If the file is not what `recorded` writes.
    """
    try:
        config = json.loads(workdir.config.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise LaunchError(
            f"{str(workdir.config)!r} is not JSON ({error}): repair it, or use another --workdir"
        ) from None
    if not isinstance(config, dict):
        raise LaunchError(f"{str(workdir.config)!r} holds no JSON object: repair it, or use another --workdir")
    return config


def check(workdir: Workdir, config: Mapping[str, Any]) -> None:
    """Refuses a config that differs from the recorded one in more than the free keys.

    Args:
      workdir: Where the run lies, or will lie.
      config: The config of this start, as plain values.

    Raises:
      LaunchError: If it differs; each key is named with both its values.
    """
    recorded = read(workdir)
    if recorded is None:
        return
    old, new = _binding(recorded), _binding(json.loads(json.dumps(config)))
    keys = [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]
    if not keys:
        return
    changes = "\n".join(f"  {key}: was {_shown(key, old)}, now {_shown(key, new)}" for key in keys)
    raise LaunchError(
        f"--workdir={workdir} holds a run with another config:\n{changes}\n"
        "Give the old values, use another --workdir, or continue that run with the new values: --allow_config_change"
    )


@contextlib.contextmanager
def recorded(workdir: Workdir, config: Mapping[str, Any]) -> Iterator[None]:
    """Writes `config.json`, and takes it back if the block fails before its run has logged or saved anything.

    Without that, a mistake that shows only when the model is built would leave a workdir that refuses its correction.

    Args:
      workdir: Made where it does not exist.
      config: The config, as plain values.

    Raises:
      WorkdirLocked: If another run is writing there.
    """
    is_new_directory, before, written = not workdir.path.exists(), read(workdir), _written(workdir)
    with workdir.lock():
        workdir.write_json(workdir.config, config)
    try:
        yield
    except BaseException:
        if before is None:
            _withdraw(workdir, remove_directory=is_new_directory)
        elif _written(workdir) == written:
            with contextlib.suppress(WorkdirLocked, OSError), workdir.lock():
                workdir.write_json(workdir.config, before)
        raise


def _written(workdir: Workdir) -> tuple[int, set[str]]:
    """What tells that a run has done something: the length of its log, and its checkpoints."""
    log = workdir.metrics.stat().st_size if workdir.metrics.exists() else 0
    return log, set(os.listdir(workdir.checkpoints)) if workdir.checkpoints.is_dir() else set()


def _withdraw(workdir: Workdir, *, remove_directory: bool) -> None:
    with contextlib.suppress(WorkdirLocked, OSError):
        with workdir.lock():
            if set(os.listdir(workdir)) - {workdir.config.name, workdir.lock_file.name}:
                return
            workdir.config.unlink()
            workdir.lock_file.unlink()
        if remove_directory:
            workdir.path.rmdir()


def _binding(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(flatten({key: value for key, value in config.items() if key not in FREE_KEYS}))


def _shown(key: str, values: Mapping[str, Any]) -> str:
    return repr(values[key]) if key in values else "not set"
