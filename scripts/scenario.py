"""Measures on real digits what is often said of dropout and the training flag.

Runs a scenario once for each seed, prints its table, and writes table.md, measured.json and figure.png. --list shows
all scenarios.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tqdm
from absl import app, flags
from ml_collections import ConfigDict

from trainloop.launch import command_line, program

flags.DEFINE_string("name", None, "which scenario to run; all runs every one")
flags.DEFINE_bool("list", False, "show the scenarios, a line each, and run none")
flags.DEFINE_integer("seeds", 5, "how many seeds: 0, 1, 2, ...", lower_bound=1)
flags.DEFINE_integer("epochs", None, "how long to train, instead of the scenario's own length", lower_bound=1)
flags.DEFINE_string("workdir", None, "directory for the results (default: runs/scenarios/NAME)")
flags.DEFINE_string("write", None, "folder of pages whose tables and figures are replaced too, as docs/questions")
flags.DEFINE_bool("verbose_tf", False, "let TensorFlow tell of its start-up")


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if given.list == (given.name is not None):
        command_line.refuse("give either --name=SCENARIO or --list")
    if given.write is not None and given.epochs is not None:
        command_line.refuse(f"--epochs={given.epochs}: what --write puts into the pages has the scenario's own length")
    with program.prepared(ConfigDict(), strategy="none", verbose_tf=given.verbose_tf):
        from trainloop.tasks import scenarios

        if given.list:
            for each in scenarios.ALL:
                print(f"{each.row}  {each.name:<34}  {each.line}")
            return
        try:
            chosen = scenarios.ALL if given.name == "all" else [scenarios.find(given.name)]
        except ValueError as error:
            command_line.refuse(f"--name={error}")
        pages = None if given.write is None else Path(given.write)
        if pages is not None:
            check_pages(pages, [each.name for each in chosen])
        for each in chosen:
            run(each, workdir_of(each.name), pages)


def check_pages(pages: Path, names: list[str]) -> None:
    """Ends the program where a scenario has no place in the pages, before minutes are spent on measuring."""
    from trainloop.tasks.scenarios import documents

    for name in names:
        try:
            documents.page_of(pages, name)
        except ValueError as error:
            command_line.refuse(f"--write={error}")


def workdir_of(name: str) -> Path:
    """Returns where a scenario writes: with --name=all each has a directory of its own."""
    given = flags.FLAGS.workdir
    return Path(given) if given and flags.FLAGS.name != "all" else Path(given or "runs/scenarios") / name


def run(scenario: Any, workdir: Path, pages: Path | None) -> None:
    """Measures, prints the table, and writes what was found."""
    from trainloop.tasks.scenarios import documents

    epochs = flags.FLAGS.epochs or scenario.epochs
    seeds = tqdm.trange(flags.FLAGS.seeds, desc=scenario.name, unit="seed", disable=None, leave=False)
    measured = [scenario.measure(seed, epochs) for seed in seeds]
    report = scenario.report(measured)
    print(f"{scenario.row} {scenario.name}: {scenario.line}\n\n{report.table()}\n\n{report.conclusion}\n")
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "table.md").write_text(f"{report.table()}\n\n{report.conclusion}\n")
    by_seed = [{name: np.asarray(value).tolist() for name, value in of_seed.items()} for of_seed in measured]
    (workdir / "measured.json").write_text(json.dumps({"epochs": epochs, "by_seed": by_seed}, indent=1) + "\n")
    report.figure().savefig(workdir / "figure.png", dpi=110)
    print(f"in {workdir}: table.md, measured.json, figure.png\n")
    if pages is not None:
        documents.write(pages, scenario.name, report, flags.FLAGS.seeds)


if __name__ == "__main__":
    try:
        app.run(main, flags_parser=command_line.parse)
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(program.INTERRUPTED)
