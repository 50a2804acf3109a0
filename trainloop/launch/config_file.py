"""Reading a config file: its `get_config()`, its keys, and its values as plain Python."""

from __future__ import annotations

import difflib
import importlib.machinery
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags
from ml_collections import config_dict

from trainloop.launch.errors import LaunchError


class UserCodeError(Exception):
    """Carries an exception from a config file through absl, which would replace a `ValueError` by one of its own."""

    def __init__(self, original: Exception) -> None:
        super().__init__(original)
        self.original = original


class ConfigFileParser(flags.ArgumentParser):
    """Turns the value of `--config` into the `ConfigDict` that the file's `get_config()` returns.

    Attributes:
      config: The last config read, before the command line overrides its keys; None until then.
    """

    config: config_dict.ConfigDict | None = None

    def parse(self, path: Any) -> config_dict.ConfigDict:
        """Reads `path`, or `path:argument` for a `get_config(argument)`.

        Raises:
          ValueError: If there is no such file, or it has no `get_config` that returns a config.
          UserCodeError: If the file's own code raises.
        """
        file, *argument = path.split(":", 1)
        if not os.path.isfile(file):
            what = "is a directory" if os.path.isdir(file) else "does not exist"
            raise ValueError(f"{file!r} {what}; expected a Python file with a get_config() function")
        try:
            namespace = _execute(file)
            get_config = namespace.get("get_config")
            config = get_config(*argument) if callable(get_config) else None
        except Exception as error:
            raise UserCodeError(error) from error
        if not callable(get_config):
            raise ValueError(f"{file!r} has no get_config() function; it must define one that returns a ConfigDict")
        if isinstance(config, dict):
            config = config_dict.ConfigDict(config)
        if not isinstance(config, config_dict.ConfigDict):
            raise ValueError(f"get_config() in {file!r} returned {config!r}; expected a ConfigDict or a dict")
        self.config = config.lock()
        return self.config

    def flag_type(self) -> str:
        """Returns the name of the flag's type, for absl's help."""
        return "config file"


def _execute(file: str) -> dict[str, Any]:
    loader = importlib.machinery.SourceFileLoader("trainloop_config", file)
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return vars(module)


def why_key_is_unknown(config: config_dict.ConfigDict, key: str) -> str | None:
    """Returns what is wrong with a dotted key of `config`, or None where the key exists.

    Args:
      config: The config.
      key: The key as typed after `--config.`.
    """
    keys = [name for name, _ in flatten(config.to_dict())]
    groups = {name.rpartition(".")[0] for name in keys}
    if key in keys or key in groups:
        return None
    near = difflib.get_close_matches(key, keys, n=1)
    return f"--config.{key}: the config has no key {key!r}" + (
        f"; did you mean --config.{near[0]}?" if near else f"; its keys are {', '.join(keys)}"
    )


def to_plain(config: config_dict.ConfigDict) -> dict[str, Any]:
    """Returns a config as nested dicts of plain values, references resolved.

    Raises:
      LaunchError: If a value cannot be recorded as JSON.
    """
    plain = config.to_dict()
    for key, value in flatten(plain):
        try:
            json.dumps(value)
        except TypeError:
            raise LaunchError(
                f"config key {key!r} is {value!r}, a {type(value).__name__}; expected numbers, strings, booleans, "
                "None, or lists and dicts of them, which config.json can record. Give a name and look it up in the task"
            ) from None
    return plain


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value with its dotted key; an empty dict counts as a value."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
