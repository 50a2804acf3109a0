"""The flags that all programs share, their help, and what a wrong one gets."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import NoReturn

from absl import flags
from ml_collections import config_flags

from trainloop.launch.config_file import ConfigFileParser, UserCodeError, why_key_is_unknown

STRATEGIES = ("none", "mirrored")
REFUSED = 2  # The exit status of a program that found its command line wrong.

_COLUMN = 34
_REPEAT = ";\n    repeat this option to specify a list of values"  # which absl adds to a flag of several values


def define(read_only: bool, without_workdir: bool = False) -> None:
    """Defines the common flags, once a process.

    Args:
      read_only: Whether the program reads a run instead of making one; it then takes no flag that only writing needs.
      without_workdir: Whether the program neither makes nor reads a run.
    """
    if "config" in flags.FLAGS:
        return
    config_flags.DEFINE_config_file(
        "config",
        help_string="Python file whose get_config() says what to run"
        + ("; without it, what the workdir recorded" if read_only else ", such as configs/digits.py"),
    )
    flags.FLAGS["config"].parser = ConfigFileParser()
    flags.DEFINE_enum("strategy", "none", STRATEGIES, "how replicas share the work")
    flags.DEFINE_bool("verbose_tf", False, "let TensorFlow tell of its start-up")
    if without_workdir:
        return
    flags.DEFINE_string("workdir", None, "directory of the run: checkpoints, metrics, config.json")
    if read_only:
        flags.DEFINE_integer("steps", None, "use only the first N batches of a data set", lower_bound=1)
        flags.DEFINE_string("checkpoint", "latest", "which one to restore: latest, best, or its step")
        flags.register_validator(
            "checkpoint",
            lambda which: which in ("latest", "best") or which.isdecimal(),
            "expected latest, best or a step",
        )
        return
    flags.DEFINE_integer("steps", None, "total training steps, instead of the config's run length", lower_bound=1)
    flags.DEFINE_bool("dry_run", False, "two steps of every phase and callback in a throw-away workdir")
    flags.DEFINE_bool("allow_config_change", False, "continue a run although its config is another one now")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line into `flags.FLAGS`; for `absl.app.run(flags_parser=...)`.

    Answers `--help` itself, and exits with status 2 and a line on stderr where the command line is wrong.

    Args:
      argv: The program's name and its arguments.

    Returns:
      The program's name alone.
    """
    before_positionals = argv[1 : argv.index("--")] if "--" in argv else argv[1:]
    if {"--help", "-help", "-h", "-?", "--helpshort"} & set(before_positionals):
        sys.stdout.write(_help(argv[0]))
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except UserCodeError as error:
        raise error.original from None
    except (flags.Error, KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        # ml_collections raises whatever a lookup in the config raises; a config file's own errors are not among these.
        refuse(_why_override_is_wrong(argv) or _without_noise(error))
    if rest[1:]:
        refuse(f"unexpected argument {rest[1]!r}; flags are written --name=value")
    return rest


def refuse(message: str) -> NoReturn:
    """Ends the program with a message on stderr and the exit status of a wrong command line."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(REFUSED)


def _why_override_is_wrong(argv: list[str]) -> str | None:
    overrides = [match[1] for word in argv if (match := re.match(r"--?(?:no)?config\.([^=]+)", word))]
    if not overrides:
        return None
    parser = flags.FLAGS["config"].parser
    assert isinstance(parser, ConfigFileParser)
    if parser.config is not None:
        return next((why for key in overrides if (why := why_key_is_unknown(parser.config, key))), None)
    if not any(re.match(r"--?config(=|$)", word) for word in argv):
        return f"--config.{overrides[0]} overrides a key of a config file, and --config=FILE is missing"
    return None


def _without_noise(error: Exception) -> str:
    message = str(error.args[0]) if error.args else type(error).__name__
    return message.replace(". Did you mean: ", "; did you mean --").replace(" ?", "?")


def _help(program: str) -> str:
    command = f"{sys.orig_argv[0]} {os.path.relpath(program)}"
    needed = "--workdir=DIR " if "checkpoint" in flags.FLAGS else "--config=FILE --workdir=DIR "
    lines = [(sys.modules["__main__"].__doc__ or "").strip(), ""]
    is_launched = "config" in flags.FLAGS  # else a program that parses its flags here and has its own way to run
    shared = ("workdir", "checkpoint", "steps", "strategy") if is_launched else ()
    lines += [f"usage: {command} {needed if is_launched and 'workdir' in flags.FLAGS else ''}[flags]"]
    if is_launched:
        lines += ["", "what to run, and where", *_entries("config")]
        lines += _entry("config.KEY=VALUE", "override one key of the config, as in --config.learning_rate=3e-4")
        lines += _entries(*shared)
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(program)}.difference((*shared, "verbose_tf"))
    if own:
        lines += ["", "this program", *_entries(*sorted(own))]
    lines += ["", "besides", *_entries("dry_run", "allow_config_change", "verbose_tf")]
    lines += _entry("helpfull", "list absl's own flags too")
    return "\n".join(lines).strip() + "\n"


def _entries(*names: str) -> list[str]:
    return [line for name in names if name in flags.FLAGS for line in _flag_entry(flags.FLAGS[name])]


def _flag_entry(flag: flags.Flag) -> list[str]:
    if flag.boolean:
        return _entry(flag.name, flag.help)
    kinds = {"config": "FILE", "workdir": "DIR", "checkpoint": "latest|best|STEP"}
    kind = kinds.get(flag.name, "N" if flag.flag_type() == "int" else "VALUE")
    help_text = (flag.help or "").removesuffix(_REPEAT)
    if match := re.match("<([^>]+)>: ", help_text):  # as absl writes it for an enum's values
        kind, help_text = match[1], help_text[match.end() :]
    default = "" if flag.default is None or flag.default == [] else f" (default: {flag.default})"
    return _entry(f"{flag.name}={kind}", f"{help_text}{default}")


def _entry(left: str, help_text: str | None) -> list[str]:
    width = min(shutil.get_terminal_size().columns, 110)
    first, *others = textwrap.wrap(help_text or "", max(width - _COLUMN, 30)) or [""]
    return [f"  --{left}".ljust(_COLUMN - 1) + f" {first}", *(" " * _COLUMN + other for other in others)]
