"""Evaluates a checkpoint of a run on each of its data sets."""

import json

from absl import flags
from ml_collections import ConfigDict

from trainloop import launch
from trainloop.launch import summary

flags.DEFINE_bool("json", False, "print the scores as JSON")


def main(config: ConfigDict, workdir: str) -> None:
    task = launch.build(config, workdir)
    step = launch.restore(task)
    scores = {name: task.trainer.evaluate(data, steps=flags.FLAGS.steps) for name, data in task.sets.items()}
    if flags.FLAGS.json:
        print(json.dumps({"step": step, "scores": scores}))
    else:
        print(f"step {step} of {workdir}\n\n{summary.score_table(scores)}")


if __name__ == "__main__":
    launch.run(main, read_only=True)
