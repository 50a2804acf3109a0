"""Audits a model: what its layers do in each phase, whether every phase keeps its contract, and what looks unmeant.

Ends with status 1 where a phase is violated, so that it serves in a CI, and with 2 where there is nothing to audit. The
model is that of a config, audited on a batch of its training data, or any other that --model names.
"""

import inspect
import pathlib
import traceback
import urllib.error
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict

import trainloop
from trainloop import launch

flags.DEFINE_string("model", None, "package.module:name of a model, or of a function that makes one")
flags.DEFINE_list("inputs", None, "shape of one input, no batch (32,32,3); by default what the model was built on")
flags.DEFINE_string("json", None, "file to write the audit to as JSON")
flags.DEFINE_string("figure", None, "file to draw the layers' outputs in, training against evaluation; needs --config")
flags.DEFINE_bool("fail_on_lint", False, "end with status 1 for a lint too")
flags.register_validator(
    "inputs",
    lambda sizes: sizes is None or (sizes and all(size.isdecimal() or size == "None" for size in sizes)),
    "expected sizes such as 32,32,3",
)
flags.register_multi_flags_validator(
    ["model", "figure"],
    lambda given: not (given["model"] and given["figure"]),
    "--figure draws what is measured on data, which a --config=FILE brings and --model not",
)


CANNOT_AUDIT = 2  # The same status as for a wrong command line.


def main(config: ConfigDict, workdir: str) -> int:
    given = flags.FLAGS
    if (given.model is None) == (given.config is None):
        raise launch.LaunchError("give either --model=package.module:name or --config=FILE")
    try:
        audit = audited_model() if given.model else trainloop.audit(*task_model(config, workdir))
    except launch.LaunchError:
        raise
    except Exception:  # noqa: BLE001 (whatever a model raises: status 1 would say that a phase is violated)
        traceback.print_exc()
        return CANNOT_AUDIT
    print(audit)
    if given.json:
        pathlib.Path(given.json).write_text(audit.to_json() + "\n")
    if given.figure:
        audit.figure().savefig(given.figure, dpi=150)
    return int(not audit.ok or (given.fail_on_lint and bool(audit.lints)))


def audited_model() -> Any:
    """Returns the audit of the model that --model names, on inputs of the shape --inputs or what it was built on."""
    model, sizes = named_model(), flags.FLAGS.inputs
    if sizes is None and not getattr(model, "inputs", None):
        raise launch.LaunchError(
            f"--model={flags.FLAGS.model}: the model does not say what it takes; give the shape of one input without "
            "the batch, such as --inputs=64 or --inputs=32,32,3"
        )
    inputs = None if sizes is None else [None, *(None if size == "None" else int(size) for size in sizes)]
    try:
        return trainloop.audit(model, inputs)
    except ValueError as error:
        if sizes is None:
            raise
        what = [str(error).strip().splitlines()[0], *(note for note in error.__notes__ if note.startswith("audit: "))]
        raise launch.LaunchError(f"--inputs={','.join(sizes)}: {'; '.join(what)}") from error


def named_model() -> Any:
    """Returns the model that --model names."""
    name = flags.FLAGS.model
    found = launch.find(name, "--model")
    if isinstance(found, type) or not hasattr(found, "submodules"):
        found = made_by(found, name)
    if not callable(found):
        shape = f" of shape {tuple(found.shape)}" if hasattr(found, "shape") else ""
        raise launch.LaunchError(f"--model={name}: it returned a {type(found).__name__}{shape}; expected a model")
    return found


def made_by(make: Any, name: str) -> Any:
    """Returns what a function or class makes."""
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise launch.LaunchError(
            f"--model={name}: {error}; name a function without arguments that makes the model"
        ) from error
    except ValueError:  # a class that does not tell what it takes
        pass
    try:
        return make()
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, urllib.error.URLError):
            cause = cause.__cause__ or cause.__context__
        if cause is None:
            raise
        raise launch.LaunchError(
            f"--model={name}: it wants to download something, and cannot ({cause}); name a function of your own that "
            "makes the model without it, as with weights=None"
        ) from error


def task_model(config: ConfigDict, workdir: str) -> tuple[Any, Any]:
    """Returns the model of the config's task, and the inputs of its first batch."""
    task = launch.build(config, workdir)
    model = task.trainer.model
    if isinstance(model, Mapping):
        raise launch.LaunchError(f"the config's task trains {', '.join(model)}; name one of its models with --model")
    batch = next(iter(getattr(task.train_data, "once", task.train_data)))
    return model, batch[0] if isinstance(batch, tuple) else batch


if __name__ == "__main__":
    launch.run(main, without_workdir=True)
