"""The confusion table, as Markdown, and its place in a document."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.corpus.judge import GOOD, Result
from trainloop import Phase

START, END = "<!-- corpus: begin -->", "<!-- corpus: end -->"


def tables(results: Sequence[Result], versions: str) -> str:
    """Returns what there is to say about a run of the corpus."""
    bad = Counter(result.outcome for result in results if result.outcome not in GOOD)
    models = {result.name for result in results if not result.is_mutant}
    mutants = {result.name for result in results if result.is_mutant}
    verdict = (
        ", ".join(f"{count} {outcome}" for outcome, count in sorted(bad.items())) or "nothing missed, no false alarm"
    )
    return "\n\n".join(
        [
            f"{len(models)} healthy models and {len(mutants)} mutants, {len(results)} verdicts: **{verdict}**. ({versions})",
            "Healthy models: passed of tried, by phase; `fit`, `evaluate`, `predict`, `update_bn` of a Trainer in the last column.",
            _healthy([result for result in results if not result.is_mutant]),
            "Mutants, by what was planted. The numbers are of pairs of a mutant and a phase that applies to it. *Right* are "
            "those in which it does no harm: the phase says what the mutation says, or overrides it. The last column is "
            "caught and mended of tried in a Trainer.",
            _mutants([result for result in results if result.is_mutant]),
        ]
    )


def _healthy(results: Sequence[Result]) -> str:
    rows = []
    for group in [*_groups(results), "all"]:
        own = [result for result in results if group in (result.group, "all")]
        calls = [result for result in own if not result.in_trainer]
        by_phase = [_share([result for result in calls if result.phase == phase.value]) for phase in Phase]
        alarms = sum(result.outcome not in GOOD for result in own)
        trained = _share([result for result in own if result.in_trainer])
        rows.append([group, str(len({result.name for result in own})), *by_phase, trained, str(alarms)])
    return _markdown(["kind", "models", *(phase.value for phase in Phase), "in a Trainer", "false alarms"], rows)


def _mutants(results: Sequence[Result]) -> str:
    rows = []
    for group in [*_groups(results), "all"]:
        own = [result for result in results if group in (result.group, "all")]
        calls = [result for result in own if not result.in_trainer]
        by_net = [
            sum(result.outcome == "caught" and result.net == net for result in calls) for net in ("guard", "contract")
        ]
        counts = Counter(result.outcome for result in calls)
        numbers = [
            *by_net,
            counts["mended"],
            counts["passed"],
            sum(counts.values()) - sum(counts[each] for each in GOOD),
        ]
        trained = _share([result for result in own if result.in_trainer])
        rows.append([group, str(len({result.name for result in own})), *map(str, numbers), trained])
    headings = [
        "planted",
        "mutants",
        "caught by the guard",
        "by the contract",
        "mended",
        "right",
        "missed",
        "in a Trainer",
    ]
    return _markdown(headings, rows)


def _groups(results: Iterable[Result]) -> list[str]:
    return list(dict.fromkeys(result.group for result in results))


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
        raise ValueError(f"{path} has no lines {START!r} and {END!r}; put them where the table is to stand")
    path.write_text(pattern.sub(lambda _: f"{START}\n{text}\n{END}", document))
