"""Audits a model: what its layers do in each phase, whether every phase keeps its contract, and what looks unmeant.

Ends with status 1 where a phase is violated, so that it serves in a CI. The model is that of a config, audited on a
batch of its training data, or any other that --model names.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import ConfigDict

import trainloop
from trainloop import launch

flags.DEFINE_string("model", None, "package.module:name of a model, or of a function that makes one")
flags.DEFINE_list("inputs", None, "shape of one of its inputs (32,32,3); by default what the model was built on")
flags.DEFINE_string("json", None, "file to write the audit to as JSON")
flags.DEFINE_string("figure", None, "file to draw the layers' outputs in, training against evaluation; needs --config")
flags.DEFINE_bool("fail_on_lint", False, "end with status 1 for a lint too")
flags.register_validator(
    "inputs",
    lambda sizes: all(size.isdecimal() or size == "None" for size in sizes or ()),
    "expected sizes such as 32,32,3",
)
flags.register_multi_flags_validator(
    ["model", "figure"],
    lambda given: not (given["model"] and given["figure"]),
    "--figure draws what is measured on data, which a --config=FILE brings and --model not",
)


def main(config: ConfigDict, workdir: str) -> int:
    given = flags.FLAGS
    if (given.model is None) == (given.config is None):
        raise launch.LaunchError("give either --model=package.module:name or --config=FILE")
    model, inputs = named_model() if given.model else task_model(config, workdir)
    audit = trainloop.audit(model, inputs)
    print(audit)
    if given.json:
        pathlib.Path(given.json).write_text(audit.to_json() + "\n")
    if given.figure:
        audit.figure().savefig(given.figure, dpi=150)
    return int(not audit.ok or (given.fail_on_lint and bool(audit.lints)))


def named_model() -> tuple[Any, Any]:
    """Returns the model that --model names, and the shape of its inputs; None for what it was built on."""
    found = launch.find(flags.FLAGS.model, "--model")
    model = found() if isinstance(found, type) or not hasattr(found, "submodules") else found
    if flags.FLAGS.inputs is None:
        return model, None
    return model, [None, *(None if size == "None" else int(size) for size in flags.FLAGS.inputs)]


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
