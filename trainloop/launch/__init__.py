"""Starts a run from the command line: flags, config file, workdir, strategy, precision and seed.

A whole launch script; `python my_script.py --help` shows its flags::

    from trainloop import launch


    def main(config, workdir):
        task = launch.build(config, workdir)
        task.trainer.restore_or_initialize()
        task.trainer.fit(task.train_data, eval_data=task.eval_data, **task.fit)


    if __name__ == "__main__":
        launch.run(main)

Its config file names the function that makes the task; the other keys are that function's keyword arguments::

    from ml_collections import config_dict


    def get_config():
        return config_dict.ConfigDict({"task": "my_package.flowers:classifier", "seed": 0, "learning_rate": 1e-3})

`launch` is the only reader of `ConfigDict`: what it calls gets plain Python values. It imports TensorFlow only when
everything on the command line has been found good.
"""

from trainloop.launch.errors import LaunchError
from trainloop.launch.predictions import save_predictions
from trainloop.launch.program import run
from trainloop.launch.recipe import Recipe
from trainloop.launch.task import Task, build, find, restore

__all__ = ["LaunchError", "Recipe", "Task", "build", "find", "restore", "run", "save_predictions"]
