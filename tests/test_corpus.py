"""A fixed sample of the mutation corpus; `make corpus` runs all of it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corpus import table
from tests.corpus.healthy import phases_of
from tests.corpus.judge import Result, judge_healthy, judge_mutant, one_of_each, train_healthy, train_mutant
from tests.corpus.models import HEALTHY
from tests.corpus.mutants import MUTANTS
from tests.corpus.nets import examine, fresh
from tests.corpus.subject import expected, plain
from tests.thorough import sampled
from trainloop import Phase, contract

ROOT = Path(__file__).resolve().parent.parent
SMALL = [name for name, model in HEALTHY.items() if model.kind != "application" and not model.is_large]
# Of the kinds with many models that differ in one layer, every third.
SIMILAR = [name for name in SMALL if HEALTHY[name].kind in ("recurrent", "regularised")]
PASSING = [name for name in SMALL if name not in SIMILAR or SIMILAR.index(name) % 3 == 0]
EXPOSED = (Phase.TRAIN, Phase.EVAL)  # PREDICT is EVAL here
# Of two mutations that differ in the value alone, the first.
SAMPLE = list({re.sub("True|False", "...", MUTANTS[name].mutation): name for name in reversed(one_of_each())}.values())
IN_OTHER_WAYS = [
    f"{mutation}: {host} of Forwarding ({mode})"
    for mutation, host in [
        ("training=False hard-wired", "norm"),
        ("a literal training=None", "drop"),
        ("tf.nn.dropout, always on", "drop"),
        ("@tf.function on a call, traced in training", "norm"),
    ]
    for mode in ("eager", "jit", "replicas")
] + ["a worker thread: drop of Forwarding (replicas)"]
IN_A_TRAINER = [
    "training=False hard-wired: drop of Forwarding",
    "tf.nn.dropout, always on: drop of Forwarding",
    "@tf.function on a call, traced in inference: norm of Forwarding",
    "batch norm frozen after the trace: functional",
]


@pytest.mark.parametrize("name", sampled([*PASSING, "MobileNetV2"], [*PASSING[::2], "MobileNetV2"]))
def test_a_healthy_model_passes_in_every_phase(name):
    subject = fresh(HEALTHY[name].build)
    for phase in phases_of(subject):
        if name == "CompiledInside":  # what its tf.function was traced in holds for every phase of the same training=
            subject = fresh(HEALTHY[name].build)
        report = contract(subject.entry, phase, *subject.inputs)  # the guard is a part of it
        assert report.verdict == "holds", str(report)


@pytest.mark.parametrize("name", ["all families in one model", "ConvNeXt with stochastic depth"])
def test_a_healthy_model_does_what_its_phase_says(name):
    assert {result.outcome for result in judge_healthy(name)} == {"passed"}


def test_a_healthy_model_trains_in_silence():
    assert {result.outcome for result in train_healthy("all families in one model")} == {"passed"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", SAMPLE)
def test_a_mutant_is_wrong_where_it_says_so(name):
    """With Keras alone; one that is not wrong would prove nothing."""
    mutant = MUTANTS[name]
    wrong = set()
    for phase in EXPOSED:
        subject = fresh(mutant.build)
        if plain(subject, phase) != expected(subject, phase):
            wrong.add(phase)
    assert wrong == mutant.exposed & set(EXPOSED)


@pytest.mark.parametrize("name", [*SAMPLE, *IN_OTHER_WAYS])
def test_a_mutant_is_caught_before_it_runs_or_mended(name, two_replicas):
    mutant = MUTANTS[name]
    results = judge_mutant(name, two_replicas, [phase for phase in EXPOSED if phase in mutant.exposed])
    assert results
    allowed = {"caught"} if mutant.contradicts else {"caught", "mended"}
    assert not [result for result in results if result.outcome not in allowed]


@pytest.mark.parametrize("name", IN_A_TRAINER)
def test_a_trainer_catches_a_mutant_before_anything_has_changed(name):
    assert {result.outcome for result in train_mutant(name)} == {"caught"}


@pytest.mark.parametrize("phase", [Phase.MC_PREDICT, Phase.UPDATE_BN], ids=lambda phase: phase.value)
def test_what_was_said_gives_way_where_each_family_has_its_own(phase):
    finding = examine(MUTANTS["training=True hard-wired: drop of functional"].build, phase)
    assert finding.is_right


def result(outcome, *, is_mutant=True, phase="train", net=None, in_trainer=False, name="a", details=""):
    return Result(name, "kind", is_mutant, in_trainer, phase, outcome, net, details)


def test_the_table_counts():
    text = table.tables(
        [
            result("passed", is_mutant=False, name="b"),
            result("false alarm", is_mutant=False, phase="eval", name="b"),
            result("caught", net="guard"),
            result("caught", net="contract", phase="eval"),
            result("missed", phase="predict"),
            result("caught", in_trainer=True),
        ],
        "versions",
    )
    assert "1 healthy models and 1 mutants, 6 verdicts: **1 false alarm, 1 missed**. (versions)" in text
    assert "| kind | 1 | 1/1 | 0/1 | - | - | - | - | 1 |" in text
    assert "| kind | 1 | 1 | 1 | 0 | 0 | 1 | 1/1 |" in text


def test_the_table_is_written_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.START}\nold\n{table.END}\nafter\n")
    table.write(page, "new \\1")
    assert page.read_text() == f"before\n{table.START}\nnew \\1\n{table.END}\nafter\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="lacks the lines"):
        table.write(page, "new")


def test_the_program_prints_the_table():
    command = [
        sys.executable,
        "-m",
        "tests.corpus",
        "--processes=1",
        "--match=training=1 hard-wired: drop of Forwarding (eager)",
    ]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "nothing missed, no false alarm" in ran.stdout
    assert "| training=1 hard-wired | 1 | 2 | 0 | 0 | " in ran.stdout


def test_the_page_has_a_place_for_the_table():
    page = (ROOT / "docs" / "phase_truth.md").read_text()
    assert page.index(table.START) < page.index(table.END)
