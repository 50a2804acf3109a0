"""`Axis`: a key of the config, and the values or the range that a sweep gives it; `--over` as it is typed."""

from __future__ import annotations

import dataclasses
import decimal
from typing import Any

from ml_collections import config_dict

from trainloop.launch.config_file import why_key_is_unknown
from trainloop.launch.errors import LaunchError

Value = bool | int | float | str

_EXPECTED = "expected values (0.0,0.1,0.2, or 0.0,0.1,...,0.8), or for numbers a range (1e-4..1e-2, or 1e-4..1e-2:log)"
_RANGE, _AND_SO_ON, _LOG = "..", "...", ":log"


@dataclasses.dataclass(frozen=True)
class Axis:
    """A key of the config that a sweep varies.

    Attributes:
      key: The dotted key.
      values: The values it takes; empty for a range.
      low: The smallest value of a range.
      high: The largest value of a range.
      log: Whether a range is searched by factors instead of by differences.
    """

    key: str
    values: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    log: bool = False

    @property
    def is_range(self) -> bool:
        """Whether this is a range, to be searched, and no list of values."""
        return not self.values


def parse_axis(text: str, config: config_dict.ConfigDict) -> Axis:
    """Returns what one `--over` asks for.

    Args:
      text: As typed: `dropout=0.0,0.1,...,0.8`, `learning_rate=1e-4..1e-2:log`.
      config: The config, which has the key, with a value of the same type.

    Raises:
      LaunchError: If there is no such key, or the values are none for it.

    Example:
      >>> config = config_dict.ConfigDict({"dropout": 0.5, "width": 64})
      >>> parse_axis("dropout=0.0,0.1,...,0.4", config).values
      (0.0, 0.1, 0.2, 0.3, 0.4)
      >>> parse_axis("width=16..256:log", config)
      Axis(key='width', values=(), low=16, high=256, log=True)
    """
    key, equals, given = text.partition("=")
    if not equals or not given:
        raise LaunchError(f"--over={text}: expected KEY=VALUES, as in --over=dropout=0.0,0.2,0.4")
    if why := why_key_is_unknown(config, key):
        raise LaunchError(why.replace("--config.", "--over="))
    if key == "seed":
        raise LaunchError(f"--over={text}: seeds are counted from config.seed on; give their number with --seeds=N")
    now = _value_of(config, key)
    if now is not None and not isinstance(now, bool | int | float | str):
        raise LaunchError(f"--over={text}: config.{key} is {now!r}; a sweep varies numbers, booleans and strings")

    def read(word: str) -> Value:
        try:
            return _read(word, now)
        except (ValueError, decimal.InvalidOperation):
            raise LaunchError(
                f"--over={text}: {word!r} is no value for config.{key}, which is {now!r}; {_EXPECTED}"
            ) from None

    if _RANGE in given and "," not in given:
        low, high = _of_one_type(list(map(read, given.removesuffix(_LOG).split(_RANGE, 1))))
        return _range(text, key, low, high, log=given.endswith(_LOG))
    words = given.split(",")
    values = tuple(_of_one_type(list(map(read, _filled_in(text, words) if _AND_SO_ON in words else words))))
    if len(set(values)) < len(values):
        raise LaunchError(f"--over={text}: a value is given twice")
    return Axis(key, values)


def _range(text: str, key: str, low: Value, high: Value, *, log: bool) -> Axis:
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        raise LaunchError(f"--over={text}: config.{key} is no number, so it has no range; give values: a,b,c")
    if not low < high or (log and low <= 0):
        raise LaunchError(
            f"--over={text}: a range goes from a smaller to a larger number{', both above zero' if log else ''}"
        )
    return Axis(key, low=low, high=high, log=log)


def _filled_in(text: str, words: list[str]) -> list[str]:
    """Returns `0.0,0.1,...,0.8` written out. Decimal: three times the float 0.1 is not 0.3."""
    try:
        first, second, last = (decimal.Decimal(words[place]) for place in (0, 1, 3))
    except (decimal.InvalidOperation, IndexError):
        first = second = last = decimal.Decimal(0)
    step = second - first
    if len(words) != 4 or words[2] != _AND_SO_ON or not step or (last - second) / step < 1 or (last - first) % step:
        raise LaunchError(
            f"--over={text}: '...' stands between the second number and the last one, which is reached in equal "
            "steps, as in 0.0,0.1,...,0.8"
        )
    return [str(first + number * step) for number in range(int((last - first) / step) + 1)]


def _value_of(config: config_dict.ConfigDict, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = value[name]
    return value


def _read(word: str, now: Any) -> Value:
    """Reads a word as a value of the type that the config's is of."""
    if isinstance(now, bool):
        return {"true": True, "false": False}[word.lower()] if word.lower() in ("true", "false") else _refuse()
    if isinstance(now, int):
        return int(word)
    if isinstance(now, float):
        return _finite(float(word))
    if isinstance(now, str):
        return word
    try:  # None in the config says nothing of the type
        return int(word)
    except ValueError:
        return _finite(float(word))


def _of_one_type(values: list[Value]) -> list[Value]:
    """Makes all of them floats where one is: 1 and 1.0 are the same value, but not the same name of a workdir."""
    return list(map(float, values)) if any(isinstance(value, float) for value in values) else values


def _finite(number: float) -> float:
    return number if number - number == 0 else _refuse()


def _refuse() -> Any:
    raise ValueError
