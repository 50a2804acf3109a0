"""The error that ends a program with a message instead of a traceback."""


class LaunchError(ValueError):
    """What the command line or the config file says cannot be run.

    `launch.run` prints the message and exits with status 2; anything else that is raised keeps its traceback.
    """
