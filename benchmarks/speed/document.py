"""The page of figures: what was measured, as Markdown between two markers and as JSON."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.speed.sections import Section, Settings, table

START, END = "<!-- benchmark: begin -->", "<!-- benchmark: end -->"
_PACKAGES = ("trainloop-tf", "tensorflow", "tf-keras", "keras", "numpy")
Results = dict[str, Any]  # of each section by name: `conditions` and `found`


def conditions(settings: Settings) -> dict[str, Any]:
    """Returns what figures depend on besides what is measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {_gibibytes():.0f} GiB, {platform.system()}",
        "load before": round(os.getloadavg()[0], 1),
        "versions": {"Python": platform.python_version()} | {n: importlib.metadata.version(n) for n in _PACKAGES},
        "rounds": settings.rounds,
        "seconds": settings.seconds,
    }


def markdown(results: Results, sections: Mapping[str, Section]) -> str:
    """Returns what there is to say: first what was to hold, then each section."""
    parts = []
    measured = {name: section for name, section in sections.items() if name in results}
    goals = [goal for name, section in measured.items() for goal in section.goals(results[name]["found"])]
    if goals:
        rows = [[goal.what, goal.measured, goal.bound, "yes" if goal.met else "**no**"] for goal in goals]
        parts += ["## Goals", table(["of what", "measured", "goal", "met"], rows)]
    for name, section in measured.items():
        told = _spell(results[name]["conditions"])
        parts += [f"## {section.title}", section.describe(results[name]["found"]), f"<sub>{told}</sub>"]
    return "\n\n".join(parts)


def read(page: Path) -> Results:
    """Returns the results that were written beside a page before; nothing where nothing was.

    Raises:
      FileNotFoundError: If there is no such page.
      ValueError: If it lacks the markers.
    """
    _around_figures(page)
    results = page.with_suffix(".json")
    return json.loads(results.read_text()) if results.exists() else {}


def write(page: Path, results: Results, sections: Mapping[str, Section]) -> None:
    """Puts the text between the markers of a page, and the results beside it, as `.json`.

    Raises:
      FileNotFoundError: If there is no such page.
      ValueError: If it lacks the markers.
    """
    before, after = _around_figures(page)
    page.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")  # first: it is what took long
    page.write_text(f"{before}{START}\n{markdown(results, sections)}\n{END}{after}")


def _around_figures(page: Path) -> tuple[str, str]:
    """Returns what a page has before and after the figures."""
    if not page.is_file():
        raise FileNotFoundError(f"{page}: no such page; it must be there, with the lines {START!r} and {END!r}")
    text = page.read_text()
    before, start, rest = text.partition(START)
    _, end, after = rest.rpartition(END)
    if not (start and end):
        raise ValueError(f"{page} lacks the lines {START!r} and {END!r}; put them where the figures are to stand")
    return before, after


def _spell(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in conditions["versions"].items())
    return (
        f"{conditions['date']}, {conditions['machine']}, load before {conditions['load before']}; "
        f"{conditions['rounds']} rounds; {versions}"
    )


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _gibibytes() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
