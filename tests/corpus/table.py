"""The confusion table, as Markdown, and its place in a document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.corpus.judge import GOOD, Result
from trainloop import Phase

_COLUMNS = ("guard", "contract", "mended", "harmless", "missed")
_KEY = """Mutants, by what was planted. The numbers are of pairs of a mutant and a phase: caught by the guard or by the
contract, mended by the guard, harmless (the phase says what the mutation says, or tells each family its own), missed.
In a Trainer one mutant of each kind was tried: caught or mended of tried."""
START, END = "<!-- corpus: begin -->", "<!-- corpus: end -->"


def tables(results: Sequence[Result], versions: str) -> str:
    """Returns what there is to say about a run of the corpus."""
    healthy = [result for result in results if not result.is_mutant]
    mutants = [result for result in results if result.is_mutant]
    bad = Counter(result.outcome for result in results if result.outcome not in GOOD)
    verdict = ", ".join(f"{count} {outcome}" for outcome, count in sorted(bad.items()))
    return "\n\n".join(
        [
            f"{_count(healthy)} healthy models and {_count(mutants)} mutants, {len(results)} verdicts: "
            f"**{verdict or 'nothing missed, no false alarm'}**. ({versions})",
            "Healthy models: passed of tried, by phase, and in a Trainer (`fit`, `evaluate`, `predict`, `update_bn`).",
            _markdown(["kind", "models", *(phase.value for phase in Phase), "Trainer", "false alarms"], _rows(healthy)),
            _KEY,
            _markdown(["planted", "mutants", *_COLUMNS, "Trainer"], _ways(mutants)),
        ]
    )


def _rows(results: Sequence[Result]) -> Iterable[list[str]]:
    for group, own in _groups(results):
        calls = [result for result in own if not result.in_trainer]
        by_phase = [_share([result for result in calls if result.phase == phase.value]) for phase in Phase]
        alarms = sum(result.outcome not in GOOD for result in own)
        yield [group, str(_count(own)), *by_phase, _share([each for each in own if each.in_trainer]), str(alarms)]


def _ways(results: Sequence[Result]) -> Iterable[list[str]]:
    for group, own in _groups(results):
        calls = [result for result in own if not result.in_trainer]
        counts = Counter(result.outcome for result in calls)
        nets = Counter(result.net for result in calls if result.outcome == "caught")
        missed = sum(count for outcome, count in counts.items() if outcome not in GOOD)
        numbers = (nets["guard"], nets["contract"], counts["mended"], counts["passed"], missed)
        yield [group, str(_count(own)), *map(str, numbers), _share([each for each in own if each.in_trainer])]


def _groups(results: Sequence[Result]) -> Iterable[tuple[str, list[Result]]]:
    for group in dict.fromkeys(result.group for result in results):
        yield group, [result for result in results if result.group == group]
    yield "all", list(results)


def _count(results: Iterable[Result]) -> int:
    return len({result.name for result in results})


def _share(results: Sequence[Result]) -> str:
    return f"{sum(result.outcome in GOOD for result in results)}/{len(results)}" if results else "-"


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write(path: Path, text: str) -> None:
    """Puts a text between the markers of a document.

    Raises:
      ValueError: If the document lacks the markers.
    """
    document = path.read_text()
    pattern = re.compile(f"{re.escape(START)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(document):
        raise ValueError(f"{path} lacks the lines {START!r} and {END!r}; put them where the table is to stand")
    path.write_text(pattern.sub(lambda _: f"{START}\n{text}\n{END}", document))
