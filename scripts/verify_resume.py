"""Proves that a run which is killed goes on to the same bits, or names the first thing that differs.

Trains three times, each time in a process of its own: 2 * steps without a break; up to the kill at --steps; and from
there to the end. Compares weights, slots, statistics, metrics, callbacks, the position in the data and the log, bit by
bit. Ends with status 1 where something differs. The run is that of a config, or any other that --build makes.
"""

import functools

from absl import flags
from ml_collections import ConfigDict

import trainloop
from trainloop import launch

flags.DEFINE_string("build", None, "package.module:function that takes workdir= and returns a launch.Task")
flags.DEFINE_integer("steps", 20, "after how many steps the run is killed", lower_bound=1)


def main(config: ConfigDict, workdir: str) -> int:
    given = flags.FLAGS
    if (given.build is None) == (given.config is None):
        raise launch.LaunchError("give either --config=FILE or --build=package.module:function")
    build = functools.partial(named, given.build) if given.build else launch.Recipe.of_flags(config)
    try:
        report = trainloop.verify_resume(build, steps=given.steps)
    except (TypeError, ValueError) as error:
        if not str(error).startswith("verify_resume: "):
            raise  # the user's own code
        raise launch.LaunchError(str(error).removeprefix("verify_resume: ")) from error
    print(report)
    return int(not report.exact)


def named(name: str, workdir: str) -> launch.Task:
    """Calls the function that --build names; it is imported where it is needed, and TensorFlow with it."""
    return launch.find(name, "--build")(workdir=workdir)


if __name__ == "__main__":
    launch.run(main, without_workdir=True, in_other_processes=True)
