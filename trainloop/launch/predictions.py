"""Predictions as a file."""

from __future__ import annotations

import os
import pathlib
import zipfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # importing it takes TensorFlow along, which programs do only when their flags are checked
    from trainloop.results import MCPrediction


def save_predictions(path: str | os.PathLike[str], outputs: Any) -> str:
    """Writes predictions as an `.npz` file.

    Args:
      path: The file; its directory is made where it does not exist.
      outputs: What `Trainer.predict` returned: an array (saved under the name `outputs`), a dict of arrays (saved under
        their names), or a tuple or list of arrays (saved as `outputs_0`, `outputs_1` and so on). An `MCPrediction` is
        saved field by field: `mean`, `std`, and what else it holds; `mean_<name>` where there are several outputs.

    Returns:
      What the file holds, in a line.

    Example:
      >>> import tempfile
      >>> save_predictions(f"{tempfile.mkdtemp()}/predictions.npz", {"class": np.zeros([3, 10], np.float32)})
      'class float32 [3, 10]'
    """
    arrays = _of_samples(outputs) if hasattr(outputs, "entropies") else _named(outputs, "outputs")
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    # What np.savez does: NumPy 2.0 and 2.1 (TensorFlow 2.18 and 2.19) would take its allow_pickle=False for an array.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.save(file, array, allow_pickle=False)
    shown = [f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items()]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")


def _named(outputs: Any, name: str, prefix: str = "") -> dict[str, np.ndarray]:
    if isinstance(outputs, Mapping):
        return {f"{prefix}{key}": np.asarray(value) for key, value in outputs.items() if value is not None}
    if isinstance(outputs, list | tuple):
        return {f"{name}_{number}": np.asarray(each) for number, each in enumerate(outputs) if each is not None}
    return {} if outputs is None else {name: np.asarray(outputs)}


def _of_samples(prediction: MCPrediction) -> dict[str, np.ndarray]:
    entropy, information = prediction.entropies
    fields = {
        "mean": prediction.mean,
        "std": prediction.std,
        "samples": prediction.samples,
        "predictive_entropy": entropy,
        "mutual_information": information,
    }
    return {name: array for field, value in fields.items() for name, array in _named(value, field, f"{field}_").items()}
