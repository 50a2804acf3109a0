"""Writes what a checkpoint of a run predicts for one of its data sets, as an .npz file."""

from absl import flags
from ml_collections import ConfigDict

import trainloop
from trainloop import launch

flags.DEFINE_string("set", None, "which data set, by name; the last one if not given")
flags.DEFINE_string("output", None, "where to write; <workdir>/predictions.npz if not given")
flags.DEFINE_integer("samples", None, "draw so many samples of Monte-Carlo dropout: mean, std, ...", lower_bound=1)


def main(config: ConfigDict, workdir: str) -> None:
    task = launch.build(config, workdir)
    name = flags.FLAGS.set or list(task.sets)[-1]
    if name not in task.sets:
        raise launch.LaunchError(f"--set={name}: expected one of {', '.join(task.sets)}")
    step = launch.restore(task)
    path = flags.FLAGS.output or f"{workdir}/predictions.npz"
    phase = trainloop.Phase.MC_PREDICT if flags.FLAGS.samples else trainloop.Phase.PREDICT
    outputs = task.trainer.predict(task.sets[name], phase=phase, samples=flags.FLAGS.samples, steps=flags.FLAGS.steps)
    print(f"{path}: {launch.save_predictions(path, outputs)}, the {name} set at step {step}")


if __name__ == "__main__":
    launch.run(main, read_only=True)
