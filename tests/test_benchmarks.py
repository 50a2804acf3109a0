"""The harness of `make bench`: who trains when, what follows from the seconds, and the page. Few train here."""

import contextlib
import dataclasses
import itertools
import json
import queue
import random
import sys
import threading
import types
from pathlib import Path

import pytest

from benchmarks.speed import document, plot, rounds
from benchmarks.speed.contents import SECTIONS, chosen
from benchmarks.speed.peers import BASELINE, CONTROL, Kind, Task, importing, side_by_side, with_trainloop
from benchmarks.speed.processes import Process, played
from benchmarks.speed.sections import Goal, Section, Settings, outside, saving
from benchmarks.speed.turns import GO, FirstTurn, Turns
from benchmarks.speed.workloads import WORKLOADS, deep

ROOT = Path(__file__).resolve().parent.parent
TINY = dataclasses.replace(deep(2), rows=64)
PATIENCE = 60  # seconds, for what would else wait forever where the code is broken
SETTINGS = Settings(["mlp"], ["trainloop"], rounds=3, seconds=0.5)


class FakePeer:
    """A peer that takes what the list says, and notes that it was its turn."""

    def __init__(self, name, seconds, order):
        self.name, self.seconds, self.order = name, iter(seconds), order

    def turn(self):
        self.order.append(self.name)
        return next(self.seconds)


class FakeChannel:
    """A pipe whose other end gives some turns and hangs up."""

    def __init__(self, turns):
        self.left, self.sent = turns, []

    def send(self, obj):
        self.sent.append(obj)

    def recv(self):
        if self.left == 0:
            raise EOFError
        self.left -= 1
        return GO


def test_peers_take_turns_in_an_order_that_each_round_draws_anew():
    order = []
    peers = {name: FakePeer(name, itertools.count(1.0), order) for name in "abc"}
    random.seed(0)
    assert rounds.play(peers, 50) == {name: [*range(1, 51)] for name in "abc"}
    each = ["".join(order[start : start + 3]) for start in range(0, 150, 3)]
    assert {*each} == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_a_ratio_is_taken_within_each_round():
    """A machine that is ten times slower in one round changes no ratio."""
    seconds = {"peer": [2.0, 30.0, 2.2, 2.0], "baseline": [1.0, 10.0, 1.0, 1.0]}
    found = rounds.ratio(seconds, "peer", "baseline")
    assert (found.median, found.low, found.high) == pytest.approx((2.1, 2.0, 2.4))
    assert str(found) == "2.10 (2.00 to 2.40)"
    assert str(rounds.ratio({"peer": [3.0], "baseline": [2.0]}, "peer", "baseline")) == "1.50 (1.50 to 1.50)"


def test_a_turn_is_in_hundreds_of_steps_where_it_has_so_many():
    assert [SETTINGS.turn(steps) for steps in (10_000, 1_111, 100, 10, 1)] == [5_000, 500, 50, 5, 1]


def test_the_processes_of_a_peer_share_its_rounds():
    shares = [dataclasses.replace(SETTINGS, rounds=rounds, processes=3).shares for rounds in (9, 10, 2)]
    assert shares == [[3, 3, 3], [3, 3, 4], [1, 1]]


def test_the_seconds_of_all_processes_of_a_peer_count(monkeypatch):
    begun = iter([1.0, 2.0])

    @contextlib.contextmanager
    def started(tasks):
        seconds = itertools.repeat(next(begun))
        yield {name: FakePeer(name, seconds, []) for name in tasks}

    monkeypatch.setattr("benchmarks.speed.processes.started", started)
    assert played({"a": TINY, "b": TINY}, [2, 1]) == {"a": [1.0, 1.0, 2.0], "b": [1.0, 1.0, 2.0]}


def test_a_turn_lasts_from_one_call_to_the_next():
    channel = FakeChannel(2)
    turns = Turns(channel, itertools.count(0.0, 1.5).__next__)
    turns.next()
    turns.notes["blocked"] = [1]
    turns.next()
    with pytest.raises(SystemExit, match="0"):
        turns.next()
    assert [(answer["seconds"], answer.get("blocked")) for answer in channel.sent] == [(1.5, [1]), (1.5, None)]
    assert all(answer["memory"] > 1 for answer in channel.sent)


def test_a_first_turn_has_begun_before_the_peer_is_ready():
    channel = FakeChannel(0)
    turns = FirstTurn(channel, itertools.count(0.0, 1.5).__next__)
    turns.next()
    with pytest.raises(SystemExit, match="0"):
        turns.next()
    assert channel.sent == [{"seconds": 1.5}]


def made_up(monkeypatch, train):
    """Returns tasks, as `side_by_side.peers` takes them, of three peers that train so."""
    monkeypatch.setitem(sys.modules, "benchmarks.speed.peers.made_up", types.SimpleNamespace(train=train))
    return {name: Kind(name, "made_up.train", {"name": name}) for name in "abc"}


def test_each_peer_of_a_process_has_a_turn_in_each_of_its_turns(monkeypatch):
    trained = []

    def train(workload, steps, turns, *, name):
        while True:
            turns.next()
            trained.append(name)

    channel = FakeChannel(4)
    with pytest.raises(SystemExit):
        side_by_side.peers(TINY, 1, Turns(channel), kinds=made_up(monkeypatch, train))
    assert trained[:3] == [*"abc"]  # each traces by itself, and warms up
    each = [trained[start : start + 3] for start in range(3, len(trained), 3)]
    assert [sorted(names) for names in each] == [[*"abc"]] * 4
    assert [[*answer["sides"]] for answer in channel.sent] == [[*"abc"]] * 4
    assert all(seconds > 0 for answer in channel.sent for [seconds] in answer["sides"].values())


def test_a_peer_of_a_process_that_fails_ends_it(monkeypatch):
    told = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.put(str(failed.exc_value)))

    def train(workload, steps, turns, *, name):
        turns.next()
        if name == "b":
            raise ValueError("of the peer")
        turns.next()

    with pytest.raises(EOFError):
        side_by_side.peers(TINY, 1, Turns(FakeChannel(1)), kinds=made_up(monkeypatch, train))
    assert told.get(timeout=PATIENCE) == "of the peer"


def test_everything_on_is_held_against_everything_off_of_the_same_process():
    seconds = {BASELINE: [1.0, 10.0], "trainloop": [1.02, 10.2], "trainloop_bare": [1.0, 10.0], CONTROL: [1.01, 10.1]}
    found = {"mlp": {"processes": 2, "seconds": seconds}}
    row = SECTIONS["side_by_side"].describe(found).splitlines()[-1]
    of_round = "2 rounds in 2 processes"
    assert row.endswith(f"| 1.020 (1.020 to 1.020) | 1.010 (1.010 to 1.010) | 1.020 (1.020 to 1.020) | {of_round} |")
    [goal] = SECTIONS["side_by_side"].goals(found)
    assert (goal.measured, goal.met) == ("1.020", False)


def test_a_process_that_fails_says_what_it_has_printed():
    process = Process(Task(Kind("nobody", "nowhere.train"), WORKLOADS["mlp"], 1))
    try:
        with pytest.raises(RuntimeError, match=r"(?s)nobody, tiny MLP.*has failed.*benchmarks\.speed\.peers\.nowhere"):
            process.turn()
    finally:
        process.close()


def training(**seconds):
    return {"steps": 100, "processes": 1, "seconds": {BASELINE: [1.0, 2.0], **seconds, CONTROL: [1.01, 2.0]}}


def test_the_table_has_each_peer_beside_the_best_loop_and_trainloop():
    found = training(fit=[5.0, 10.0], trainloop=[1.25, 2.5])
    lines = SECTIONS["training mlp"].describe(found).splitlines()
    assert "| tf-keras `fit` | 75.00 ms | 5.00 (5.00 to 5.00) | 4.00 (4.00 to 4.00) |" in lines
    assert "| trainloop | 18.75 ms | 1.25 (1.25 to 1.25) | 1.00 (1.00 to 1.00) |" in lines
    assert lines[-1].startswith("| control: the `tf.range` loop again | 15.05 ms | 1.00 (")


def test_a_goal_that_is_missed_is_told_as_missed():
    goals = SECTIONS["training mlp"].goals(training(fit=[5.0, 10.0], trainloop=[1.25, 2.5]))
    assert [(goal.measured, goal.bound, goal.met) for goal in goals] == [
        ("1.250", "at most 1.00", False),
        ("4.000", "at least 4.00", True),
    ]


def test_each_workload_is_a_section_of_its_own():
    assert chosen(["rows", "training"], ["cnn", "mlp"]) == ["training mlp", "training cnn", "rows"]
    assert chosen([], ["mlp"]) == []


def fake_sections():
    goals = [Goal("speed", "2.00", "at most 1.00", False)]
    return {
        "one": Section(
            "The first", lambda settings: {}, lambda found: f"It took {found['seconds']} s.", lambda _: goals
        ),
        "two": Section("The second", lambda settings: {}, lambda found: "Nothing to say."),
    }


def test_the_page_is_written_between_its_markers(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"# Speed\n\n{document.START}\nold\n{document.END}\n\nThe end.\n")
    assert document.read(page) == {}
    around = document.conditions(SETTINGS)
    document.write(page, {"one": {"conditions": around, "found": {"seconds": 3}}}, fake_sections())
    text = page.read_text()
    assert text.startswith(f"# Speed\n\n{document.START}\n## Goals\n")
    assert text.endswith(f"{document.END}\n\nThe end.\n")
    told = (
        "| speed | 2.00 | at most 1.00 | **no** |",
        "## The first\n\nIt took 3 s.\n\n<sub>",
        "3 rounds",
        "tensorflow 2.",
    )
    assert [each for each in told if each not in text] == []
    assert [each for each in ("old", "The second") if each in text] == []

    results = document.read(page)
    results["two"] = {"conditions": around, "found": {}}
    document.write(page, results, fake_sections())
    stays = [each for each in ("It took 3 s.", "Nothing to say.") if each in page.read_text()]
    assert len(stays) == 2, "what was measured before stays"
    assert document.read(page) == results


def test_a_late_step_is_held_against_an_early_one_through_the_run_that_slept():
    """A machine that has become twice as slow has made no step grow."""
    early, late = {"it": [1.1, 1.1], "sleeper": [1.0, 1.0]}, {"it": [2.42, 2.42], "sleeper": [2.0, 2.0]}
    found = {"mebibytes": [1.0, 2.0, 3.0, 25.0], "early": early, "late": late}
    assert [goal.measured for goal in SECTIONS["steps"].goals(found)] == ["10.00%", "23.00 MiB"]


def test_what_a_save_costs_is_the_difference_to_the_turn_before_in_the_same_process():
    """A turn that takes twice as long as another, with a save as without, has lost nothing to it."""
    with_buffer = "a save, a shuffle's buffer with it"
    pairs = {
        "a save": [(2.0, 2.01), (1.0, 1.03), (4.0, 4.5)],
        with_buffer: [(1.0, 2.0)] * 3,
        CONTROL: [(1.0, 1.0)] * 3,
    }
    blocked = {"a save": [0.014, 0.016, 0.0125], with_buffer: [0.5, 0.7, 0.6]}
    found = {"steps": 20, "seconds": pairs, "blocked": blocked, "mebibytes": 50.0, "copy": 0.003}
    goals = [(goal.measured, goal.bound, goal.met) for goal in SECTIONS["saving"].goals(found)]
    assert goals == [
        ("22.00 ms", "at most 5.00 ms", False),
        ("0.30%", "at most 1.00%", True),
        ("3.00%", "at most 3.50%", True),
    ]
    told = SECTIONS["saving"].describe(found)
    assert "| a save | 2.00 s | 30 ms (20 to 265) | 14.0 ms (16.0) |" in told
    assert f"| {with_buffer} | 1.00 s | 1000 ms (1000 to 1000) | 600.0 ms (700.0) |" in told
    assert "| control: none in either turn | 1.00 s | 0 ms (0 to 0) | - |" in told


def test_a_save_begins_every_second_turn_and_its_pair_is_the_turn_before():
    channel = FakeChannel(turns=6)
    with pytest.raises(SystemExit):
        with_trainloop.fit(TINY, 2, Turns(channel), arrays=True, saves=2)
    assert ["blocked" in answer for answer in channel.sent] == [False, False, True, False, True, False]
    process = types.SimpleNamespace(answers=channel.sent[:5])
    assert saving.pairs(process) == [(channel.sent[1], channel.sent[2]), (channel.sent[3], channel.sent[4])]

    channel = FakeChannel(turns=3)
    with pytest.raises(SystemExit):
        with_trainloop.fit(TINY, 2, Turns(channel), arrays=True, saves=0)
    assert ["blocked" in answer for answer in channel.sent] == [False] * 3


def test_a_turn_tells_how_much_of_it_the_loop_has_run():
    channel = FakeChannel(turns=5)
    with pytest.raises(SystemExit):
        with_trainloop.fit(TINY, 2, Turns(channel), everything=False)
    found = outside.outside(channel.sent)
    assert len(found) == 5
    assert all(0 < share < 1 for share in found), found


def test_the_loop_has_run_for_as_long_as_all_reports_of_a_turn_say():
    turns = Turns(FakeChannel(turns=1))
    turn = with_trainloop.Turn(10, turns)
    turn.on_report(types.SimpleNamespace(step=4), {"steps_per_second": 8.0})
    turn.on_report(types.SimpleNamespace(step=4), {"eval/loss": 0.5})
    turn.on_report(types.SimpleNamespace(step=10), {"steps_per_second": 3.0})
    assert turns.notes == {"in_loop": 2.5}


def test_what_everything_on_adds_outside_of_the_loop_has_a_goal():
    turns = [{"seconds": 2.0, "in_loop": in_loop} for in_loop in (1.9, 1.97, 1.98)]
    found = {"cnn": {"trainloop": outside.outside(turns), "trainloop_bare": [0.002, 0.003, 0.004]}}
    [goal] = SECTIONS["outside"].goals(found)
    assert goal.what == "cnn: what everything on adds outside of the loop"
    assert (goal.measured, goal.met) == ("1.20% of the time", False)
    told = SECTIONS["outside"].describe(found)
    assert "| small CNN, 28x28, batch 64 | 1.50% (1.25 to 3.25) | 0.30% (0.25 to 0.35) |" in told


def test_the_import_is_a_turn():
    channel = FakeChannel(turns=2)
    importing.trainer(TINY, 1, Turns(channel))
    assert len(channel.sent) == 1


@pytest.mark.parametrize("text", ["# Speed\n", f"{document.END} {document.START}"])
@pytest.mark.parametrize("function", [document.read, lambda page: document.write(page, {}, {})])
def test_a_page_without_markers_is_refused_and_left_alone(function, text, tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="lacks the lines '<!-- benchmark: begin -->'"):
        function(page)
    assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_a_page_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"other\.md: no such page"):
        document.read(tmp_path / "other.md")


def test_the_figure_is_drawn(tmp_path):
    growth = {"rows": [1, 10], "seconds_a_step": {"trainloop": [1e-4, 2e-4]}}
    steps = {"steps": [1, 10, 100], "seconds_a_step": [None, 1e-4, 1e-4], "mebibytes": [1.0, 1.0, 1.0]}
    found = {"training mlp": training(trainloop=[1.25, 2.5]), "rows": growth, "steps": steps}
    plot.draw({name: {"found": each} for name, each in found.items()}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_each_peer_has_its_row_in_every_column(tmp_path, monkeypatch):
    """The rows are named in the first column alone."""
    figures = []
    monkeypatch.setattr(plot.plt, "close", figures.append)
    found = {
        "training mlp": training(fit=[2.0, 4.0], trainloop=[1.0, 2.0]),
        "training cnn": training(fit=[3.0, 6.0]),
    }
    plot.draw({name: {"found": each} for name, each in found.items()}, tmp_path / "figure.png")
    [figure] = figures
    first, second = figure.axes[:2]
    named = {label.get_text(): place for place, label in zip(first.get_yticks(), first.get_yticklabels(), strict=True)}
    [bar] = [each for each in second.patches if each.get_width() > 1.5]
    assert bar.get_y() + bar.get_height() / 2 == named["tf-keras fit"]
    assert len(set(named)) == len(first.get_yticks())


def test_the_figures_in_the_documents_are_those_that_were_measured():
    page = ROOT / "docs" / "performance.md"
    results = json.loads(page.with_suffix(".json").read_text())
    written = page.read_text().partition(f"{document.START}\n")[2].partition(f"\n{document.END}")[0]
    assert written == document.markdown(results, SECTIONS)
    assert page.with_suffix(".png").exists() == bool(results)
