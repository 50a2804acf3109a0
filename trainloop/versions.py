"""Which TensorFlow and tf-keras this package has been tested with; any other is refused when it is imported.

The package reads and replaces what the two keep private. On an unknown version that might raise much later, or give a
wrong answer; where one of these lacks something private, it is told that it is built differently.
"""

import importlib.metadata
import sys

TESTED = ("2.18", "2.19", "2.20", "2.21")  # as in pyproject.toml and noxfile.py


def check_versions(tensorflow: str, tf_keras: str) -> None:
    """Refuses a TensorFlow or tf-keras that was not tested, and two that do not belong together.

    Args:
      tensorflow: TensorFlow's version (`"2.21.0"`).
      tf_keras: The version of tf-keras.

    Raises:
      ImportError: Their minor versions differ, or are not among those tested.

    Example:
      >>> check_versions("2.20.0", "2.20.1")
    """
    minor = _minor_version(tensorflow)
    if minor == _minor_version(tf_keras) and minor in TESTED:
        return
    fitting = minor if minor in TESTED else TESTED[-1]
    raise ImportError(
        f"trainloop was tested with TensorFlow and tf-keras {TESTED[0]} to {TESTED[-1]}, both of one minor version; "
        f"found TensorFlow {tensorflow} and tf-keras {tf_keras}. Install two that belong together: "
        f"pip install 'tensorflow=={fitting}.*' 'tf-keras=={fitting}.*' 'tensorboard=={fitting}.*'"
    )


def check_installed() -> None:
    """Refuses what is installed, without the seconds that importing it takes.

    Where the two do not belong together, tf-keras may break while it is imported, with an error that names neither;
    where it has been imported, the modules themselves are asked (keras_hooks.py), which takes less time.

    Raises:
      ImportError: As `check_versions`.
    """
    if "tf_keras" in sys.modules:
        return
    try:
        tensorflow, tf_keras = map(importlib.metadata.version, ("tensorflow", "tf-keras"))
    except importlib.metadata.PackageNotFoundError:
        return  # built from source, or under another name (tensorflow-cpu): keras_hooks.py asks the modules themselves
    check_versions(tensorflow, tf_keras)


def built_differently(what: str) -> str:
    """Returns the message for a TensorFlow that lacks something private.

    Args:
      what: What it lacks.
    """
    import tensorflow as tf  # not above: `check_installed` is to run before the seconds that this takes

    return (
        f"TensorFlow {tf.__version__} is built differently from the versions trainloop was tested with ({what}). "
        "Install one of the range in trainloop's pyproject.toml."
    )


def _minor_version(version: str) -> str:
    return ".".join(version.split(".")[:2])
