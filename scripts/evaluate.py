"""Evaluates a checkpoint of a run on each of its data sets."""

import json

from absl import flags
from ml_collections import ConfigDict

import trainloop
from trainloop import launch
from trainloop.launch import summary

flags.DEFINE_bool("json", False, "print the scores as JSON")
flags.DEFINE_integer("samples", None, "score the mean of so many samples of Monte-Carlo dropout", lower_bound=1)


def main(config: ConfigDict, workdir: str) -> None:
    task = launch.build(config, workdir)
    step = launch.restore(task)
    phase = trainloop.Phase.MC_PREDICT if flags.FLAGS.samples else trainloop.Phase.EVAL
    options = {"phase": phase, "samples": flags.FLAGS.samples, "steps": flags.FLAGS.steps}
    scores = {name: task.trainer.evaluate(data, **options) for name, data in task.sets.items()}
    if flags.FLAGS.json:
        print(json.dumps({"step": step, "scores": scores}))
    else:
        print(f"step {step} of {workdir}\n\n{summary.score_table(scores)}")


if __name__ == "__main__":
    launch.run(main, read_only=True)
