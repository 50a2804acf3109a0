"""What the bits of a run depend on besides its state: the builds, the devices, the threads, XLA."""

from __future__ import annotations

import functools
import os
import pathlib
import platform
from collections import Counter
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import tensorflow as tf


def describe(*, jit_compile: bool = False, replicas: int = 1) -> dict[str, Any]:
    """Returns what a checkpoint's manifest says of the program and the machine, as JSON values by name.

    Args:
      jit_compile: Whether XLA compiles the steps.
      replicas: How many replicas share a batch.
    """
    threading = tf.config.threading
    return {
        **_versions(),
        "devices": dict(Counter(device.device_type for device in tf.config.list_logical_devices())),
        "replicas": replicas,
        "device kinds": _device_kinds(),
        "intra-op threads": _threads(threading.get_intra_op_parallelism_threads(), "TF_NUM_INTRAOP_THREADS"),
        "inter-op threads": _threads(threading.get_inter_op_parallelism_threads(), "TF_NUM_INTEROP_THREADS"),
        "jit_compile": jit_compile,
        "XLA autoclustering": bool(tf.config.optimizer.get_jit()),
    }


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns what is not here as it was when a checkpoint was saved, each as `"tensorflow 2.20.0 -> 2.21.0"`."""
    return [f"{name} {saved.get(name)} -> {now}" for name, now in here.items() if saved.get(name) != now]


@functools.cache
def _versions() -> dict[str, str]:
    return {
        "tensorflow": tf.__version__,
        "tensorflow git": str(tf.version.GIT_VERSION),
        "tensorflow compiler": str(tf.version.COMPILER_VERSION),
        **{name: metadata.version(name) for name in ("tf-keras", "numpy")},
    }


@functools.cache
def _device_kinds() -> list[str]:
    """Returns the models of the devices: kernels are chosen by what a processor can do."""
    gpus = (tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return [_processor(), *sorted({str(details.get("device_name", "GPU")) for details in gpus})]


def _processor() -> str:
    described = pathlib.Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _threads(configured: int, variable: str) -> int:
    """Returns how many threads TensorFlow uses: as configured, by its environment variable, or one a core."""
    asked = os.environ.get(variable, "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return configured or (int(asked) if asked.isdecimal() else 0) or cores or 1
