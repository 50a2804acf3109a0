"""Puts tables and figures of scenarios into the pages that speak of them."""

from __future__ import annotations

import re
from pathlib import Path

from trainloop.tasks.scenarios.scenario import Report

_END = "<!-- end -->"


def page_of(folder: Path, name: str) -> Path:
    """Returns the page with the markers of a scenario.

    Args:
      folder: Where the pages lie.
      name: The scenario's name.

    Raises:
      ValueError: If no page has them, or more than one.
    """
    pages = [path for path in sorted(folder.glob("*.md")) if _between(name).search(path.read_text())]
    if len(pages) != 1:
        found = f"{', '.join(path.name for path in pages)} have" if pages else "no page has"
        raise ValueError(
            f"{folder}: {found} the lines {_start(name)!r} and {_END!r}; exactly one page must have them, where the "
            "table is to stand"
        )
    return pages[0]


def write(folder: Path, name: str, report: Report, seeds: int) -> None:
    """Replaces what stands between the markers of a scenario, and its figure `NAME.png`.

    Args:
      folder: Where the pages lie.
      name: The scenario's name.
      report: What was measured.
      seeds: Over how many seeds.

    Raises:
      ValueError: As `page_of`.
    """
    page = page_of(folder, name)
    text = f"{_start(name)}\n{report.table()}\n\n{report.conclusion} ({seeds} seeds.)\n{_END}"
    page.write_text(_between(name).sub(lambda _: text, page.read_text()))
    report.figure().savefig(folder / f"{name}.png", dpi=110)


def _start(name: str) -> str:
    return f"<!-- table: {name} -->"


def _between(name: str) -> re.Pattern[str]:
    return re.compile(f"{re.escape(_start(name))}.*?{re.escape(_END)}", re.DOTALL)
