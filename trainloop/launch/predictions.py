"""Predictions as a file."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def save_predictions(path: str | os.PathLike[str], outputs: Any) -> str:
    """Writes predictions as an `.npz` file.

    Args:
      path: The file; its directory is made where it does not exist.
      outputs: What `Trainer.predict` returned: an array (saved under the name `outputs`), a dict of arrays (saved under
        their names), or a tuple or list of arrays (saved as `outputs_0`, `outputs_1` and so on).

    Returns:
      What the file holds, in a line.

    Example:
      >>> import tempfile
      >>> save_predictions(f"{tempfile.mkdtemp()}/predictions.npz", {"class": np.zeros([3, 10], np.float32)})
      'class float32 [3, 10]'
    """
    if isinstance(outputs, Mapping):
        arrays = {str(name): np.asarray(value) for name, value in outputs.items()}
    elif isinstance(outputs, list | tuple):
        arrays = {f"outputs_{number}": np.asarray(value) for number, value in enumerate(outputs)}
    else:
        arrays = {"outputs": np.asarray(outputs)}
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:  # A name would get ".npz" appended.
        np.savez(file, allow_pickle=False, **arrays)
    shown = [f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items()]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
