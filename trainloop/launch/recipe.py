"""`Recipe`: what the command line asks for, in a form that another process can follow."""

from __future__ import annotations

import dataclasses
from typing import Any

from absl import flags
from ml_collections import config_dict

from trainloop.launch.config_file import to_plain
from trainloop.launch.program import prepared
from trainloop.launch.task import Task, build


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Builds the task of a config as a program would, in whatever process it is called.

    Attributes:
      config: The config, as plain values.
      strategy: The value of `--strategy`.
      verbose_tf: The value of `--verbose_tf`.

    Example:
      >>> from trainloop import launch
      >>> recipe = launch.Recipe({"task": "trainloop.tasks.digits:mlp", "steps": 3}, strategy="none", verbose_tf=False)
      >>> recipe(workdir=None).fit
      {'steps': 3}
    """

    config: dict[str, Any]
    strategy: str
    verbose_tf: bool

    @classmethod
    def of_flags(cls, config: config_dict.ConfigDict) -> Recipe:
        """Returns the recipe of a program that has parsed its flags.

        Args:
          config: What `main` was called with.
        """
        return cls(to_plain(config), flags.FLAGS.strategy, flags.FLAGS.verbose_tf)

    def __call__(self, workdir: str) -> Task:
        """Imports TensorFlow, sets precision and seeds, and builds the task inside the strategy.

        Args:
          workdir: The directory of the run.
        """
        config = config_dict.ConfigDict(self.config)
        with prepared(config, strategy=self.strategy, verbose_tf=self.verbose_tf):
            return build(config, workdir)
