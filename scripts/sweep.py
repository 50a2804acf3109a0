"""Trains a config with many values of its keys and many seeds, and draws training against evaluation.

The same command again goes on where it was stopped or killed. In a second terminal at the same time it shares the work.

  --over=dropout=0.0,0.1,...,0.8 --seeds=5             a grid: each value with each seed
  --over=learning_rate=1e-4..1e-2:log --trials=40      a search of the range
"""

import sys

from absl import flags
from ml_collections import ConfigDict

from trainloop import launch, sweeping
from trainloop.launch.config_file import to_plain
from trainloop.sweeping.table import shown

flags.DEFINE_string("workdir", None, "directory of the sweep: sweep.csv, sweep.png, trials/, sweep.db")
flags.DEFINE_multi_string("over", [], "<KEY=VALUES>: what to vary, as above; give it once a key")
flags.DEFINE_integer("seeds", 1, "with how many seeds each point is trained", lower_bound=1)
flags.DEFINE_integer("trials", None, "stop at so many trials in all; a search needs it", lower_bound=1)
flags.DEFINE_string("metric", "eval/loss", "metric of an evaluation by which trials are judged")
flags.DEFINE_enum("mode", None, ["min", "max"], "which is better; a loss needs none")
flags.DEFINE_bool("prune", False, "stop a trial that is worse than the median of the others at its step")

CONTENTS = """\
  sweep.csv    a row a trial: values, seed, state, metrics
  sweep.png    training against evaluation
  trials/      a run each, for scripts/evaluate.py --workdir=..."""


def main(config: ConfigDict, workdir: str) -> None:
    given = flags.FLAGS
    if given.config is None:
        raise launch.LaunchError("--config is missing: a Python file with get_config(), such as configs/digits_mlp.py")
    if not given.workdir:
        raise launch.LaunchError("--workdir is missing: the directory of the sweep, for example --workdir=runs/sweep")
    plan = sweeping.Plan(
        axes=tuple(sweeping.parse_axis(text, config) for text in given.over),
        config=to_plain(config),
        seeds=given.seeds,
        metric=given.metric,
        mode=given.mode,
        trials=given.trials,
        prune=given.prune,
    )
    try:
        results = sweeping.sweep(plan, given.workdir, strategy=given.strategy, verbose_tf=given.verbose_tf)
    except (KeyboardInterrupt, SystemExit):
        sys.stderr.write("run the same command again to go on\n")
        raise
    print(f"{shown(results, plan)}\n\nin {given.workdir}\n{CONTENTS}")


if __name__ == "__main__":
    launch.run(main, without_workdir=True, in_other_processes=True)
