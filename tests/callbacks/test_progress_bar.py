"""`ProgressBar`: a bar in a terminal, lines anywhere else, and output that stays clean beside it."""

import contextlib
import io
import logging
import os
import re
import sys
import termios

import pytest
import tqdm

from trainloop import Callback, Every, Inference, Phase, ProgressBar


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and can tell what stands on its screen."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def screen(self) -> list[str]:
        rows, row, column = [""], 0, 0
        for text in re.split(r"(\n|\r|\x1b\[[AK])", self.getvalue()):
            if text == "\n":
                row, column = row + 1, 0
                rows += [""] * (row == len(rows))
            elif text == "\r":
                column = 0
            elif text == "\x1b[A":
                row -= 1
            elif text == "\x1b[K":
                rows[row] = rows[row][:column]
            else:  # writes over what stands there
                rows[row] = rows[row][:column].ljust(column) + text + rows[row][column + len(text) :]
                column += len(text)
        return [shown.rstrip() for shown in rows]


@pytest.fixture
def open_terminal(monkeypatch):
    """Returns a function that puts one terminal, 200 columns wide, in place of standard output and standard error.

    It is called within the test: pytest sets both streams once more between the fixtures and the test.
    """

    def open_it() -> Terminal:
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("LINES", "50")
        return stream

    return open_it


@pytest.fixture
def open_log_file(monkeypatch):
    """Returns a function that puts a file in place of standard error."""

    def open_it() -> io.StringIO:
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return open_it


def read_to_the_end(terminal: int) -> str:
    """Returns all that was written to a terminal whose other end is closed, which Linux says by an error."""
    found = b""
    with open(terminal, "rb", buffering=0) as screen, contextlib.suppress(OSError):
        while more := screen.read(4096):
            found += more
    return found.decode()


class At(Callback):
    """Calls a function at given steps."""

    def __init__(self, function, steps):
        self.function, self.steps = function, steps
        self.trigger = Every(steps=1)

    def on_trigger(self, trainer):
        if trainer.step in self.steps:
            self.function()


def test_a_bar_with_steps_epoch_rate_time_and_metrics(make_trainer, pairs, open_terminal):
    terminal = open_terminal()
    make_trainer(ProgressBar()).fit(pairs, epochs=3, eval_data={"test": pairs})
    *evaluations, bar = filter(None, terminal.screen())
    for epoch, line in enumerate(evaluations, 1):
        assert re.fullmatch(rf"step {4 * epoch}/12  epoch {epoch}/3  loss [\d.]+  eval/test/loss [\d.]+", line)
    assert len(evaluations) == 3
    assert bar.startswith("epoch 3/3 100%|█")
    assert re.search(r"\| 12/12 \[\d\d:\d\d, ", bar)
    assert " steps/s, loss 0." in bar
    assert "eval" not in bar
    assert "per_second" not in bar
    assert " left" not in bar  # the time it took stands there now
    assert terminal.getvalue().endswith("\n")


def test_the_bar_moves_with_the_trigger(fake_trainer, open_terminal):
    terminal = open_terminal()
    bar = ProgressBar()
    assert bar.trigger == Every(seconds=0.1)
    trainer = fake_trainer(total_steps=1000, steps_per_epoch=100, step=250, epoch=2)
    trainer.state.epoch_step = 50
    bar.on_fit_begin(trainer)
    assert "| 250/1000 [" in terminal.screen()[-1]
    trainer.step, trainer.epoch, trainer.state.epoch_step = 330, 3, 30
    bar.on_trigger(trainer)
    shown = terminal.screen()[-1]
    bar.on_fit_end(trainer)
    assert shown.startswith("epoch 4/10  33%|")
    assert "| 330/1000 [" in shown
    assert " left, " in shown


@pytest.mark.parametrize(
    ("step", "epoch", "epoch_step", "shown"), [(0, 0, 0, "epoch 1/5"), (1, 0, 1, "epoch 1/5"), (4, 1, 0, "epoch 1/5")]
)
def test_the_epoch_is_that_of_the_newest_step(fake_trainer, open_log_file, step, epoch, epoch_step, shown):
    log_file = open_log_file()
    trainer = fake_trainer(step=step, epoch=epoch, total_steps=20, steps_per_epoch=4)
    trainer.state.epoch_step = epoch_step
    bar = ProgressBar()
    bar.on_fit_begin(trainer)
    bar.on_report(trainer, {"loss": 1.0})
    assert shown in log_file.getvalue()


def test_a_run_without_a_known_end(fake_trainer, open_terminal):
    terminal = open_terminal()
    bar, trainer = ProgressBar(), fake_trainer()
    bar.on_fit_begin(trainer)
    trainer.step = 40
    bar.on_report(trainer, {"loss": 0.25})
    shown = terminal.screen()[-1]
    bar.on_fit_end(trainer)
    assert shown.startswith("40 steps [")
    assert shown.endswith(", loss 0.25]")
    assert "epoch" not in shown
    assert "%" not in shown


def test_says_which_phase_it_waits_for(fake_trainer, open_terminal):
    terminal = open_terminal()
    bar, trainer = ProgressBar(), fake_trainer(total_steps=10)
    bar.on_fit_begin(trainer)
    bar.on_phase_begin(trainer, Phase.TRAIN)
    before = terminal.screen()[-1]
    bar.on_phase_begin(trainer, Phase.EVAL)
    inside = terminal.screen()[-1]
    bar.on_phase_end(trainer, Phase.EVAL, {"eval/loss": 0.5})
    line, after = terminal.screen()[-2:]
    bar.on_fit_end(trainer)
    assert ["(eval)" in shown for shown in (before, inside, after)] == [False, True, False]
    assert line == "step 0/10  eval/loss 0.5"


@pytest.mark.parametrize(("columns", "shown"), [(80, ["loss"]), (90, ["loss", "accuracy"]), (50, [])])
def test_a_narrow_terminal_has_a_bar_and_the_first_metrics(fake_trainer, open_terminal, monkeypatch, columns, shown):
    terminal = open_terminal()
    monkeypatch.setattr(tqdm.std, "_screen_shape_wrapper", lambda: lambda stream: (columns, 24))
    bar, trainer = ProgressBar(), fake_trainer(total_steps=500, steps_per_epoch=100, step=250, epoch=2)
    bar.on_fit_begin(trainer)
    bar.on_report(trainer, {"loss": 0.226, "accuracy": 0.8972, "recall": 0.5, "learning_rate": 0.1})
    found = terminal.screen()[-1]
    bar.on_phase_end(trainer, Phase.EVAL, {"eval/loss": 0.5})
    line, _ = terminal.screen()[-2:]
    bar.on_fit_end(trainer)
    assert len(found) <= columns
    assert re.findall(r"loss|accuracy|recall", found) == shown
    assert len(re.search(r"\|(.*)\|", found)[1]) >= (10 if shown else 1)
    assert line == "step 250/500  epoch 2/5  loss 0.226  accuracy 0.8972  recall 0.5  eval/loss 0.5"


@pytest.mark.parametrize(("columns", "shown"), [(0, "step 250/500  loss 0.226\n"), (80, " 50%|")])
def test_lines_in_a_terminal_without_columns(fake_trainer, monkeypatch, columns, shown):
    """As one that nobody has given a size."""
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (24 if columns else 0, columns))
    with open(its, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        bar, trainer = ProgressBar(), fake_trainer(total_steps=500, step=250)
        bar.on_fit_begin(trainer)
        bar.on_report(trainer, {"loss": 0.226})
        bar.on_fit_end(trainer)
    found = read_to_the_end(ours).replace("\r\n", "\n")
    assert shown in found
    assert ("|" in found) is (columns > 0)


def test_the_rate_is_that_of_the_steps_after_the_first_chunk(fake_trainer, open_terminal, monkeypatch):
    """The first one has traced the loop."""
    now = [1000.0]
    monkeypatch.setattr(tqdm.std, "time", lambda: now[0])
    terminal = open_terminal()
    bar, trainer = ProgressBar(), fake_trainer(total_steps=1000)
    bar.on_fit_begin(trainer)
    found = []
    for step, seconds in ((1, 60.0), (101, 1.0), (201, 1.0)):
        now[0], trainer.step = now[0] + seconds, step
        bar.on_trigger(trainer)
        found.append(re.search(r"(\S+) steps/s", terminal.screen()[-1])[1])
    bar.on_fit_end(trainer)
    assert found == ["?", "100.00", "100.00"]


def test_output_appears_above_the_bar(make_trainer, pairs, open_terminal):
    terminal = open_terminal()
    handler = logging.StreamHandler(terminal)
    logger = logging.getLogger("test_progress_bar")
    logger.addHandler(handler)

    def talk():
        print("one line")
        assert "/8 [" in terminal.screen()[-1]
        print("two", "lines", sep="\n")
        logger.warning("a logged line")
        print("an error", file=sys.stderr)

    try:
        make_trainer(At(talk, steps=[3]), ProgressBar()).fit(pairs, epochs=2)
    finally:
        logger.removeHandler(handler)
    *above, bar = filter(None, terminal.screen())
    assert above == ["one line", "two", "lines", "a logged line", "an error"]
    assert bar.startswith("epoch 2/2 100%|")
    assert handler.stream is terminal


def test_an_open_line_is_shown_when_flushed_and_goes_on(make_trainer, pairs, open_terminal):
    terminal = open_terminal()

    def ask():
        print("name? ", end="", flush=True)
        assert terminal.screen()[-1] == "name?"
        print("Ada")
        print("the end", end="")

    make_trainer(At(ask, steps=[2]), ProgressBar()).fit(pairs, steps=4)
    *above, bar = filter(None, terminal.screen())
    assert above == ["name? Ada", "the end"]
    assert "| 4/4 [" in bar


@pytest.mark.parametrize("seconds", [0, 60])  # between two updates of that bar
def test_another_bar_may_be_drawn_in_a_hook(make_trainer, pairs, open_terminal, seconds):
    terminal = open_terminal()

    def look_at_each():
        print("before")
        print()
        for number in tqdm.tqdm(range(3), desc="each", mininterval=seconds):
            if number == 1:
                print("amidst")
        print("after")

    make_trainer(At(look_at_each, steps=[2]), ProgressBar()).fit(pairs, steps=4)
    before, blank, amidst, each, after, bar, last = terminal.screen()
    assert [before, blank, amidst, after, last] == ["before", "", "amidst", "after", ""]
    assert each.startswith("each: 100%|")
    assert "| 4/4 [" in bar


def test_another_bar_may_vanish(make_trainer, pairs, open_terminal):
    terminal = open_terminal()

    def look_at_each():
        for _ in tqdm.tqdm(range(3), mininterval=0, leave=False):
            pass

    later = At(lambda: print("later"), steps=[3])
    make_trainer(At(look_at_each, steps=[1, 2, 4]), later, ProgressBar()).fit(pairs, steps=4)
    said, bar, *below = terminal.screen()
    assert said == "later"
    assert "| 4/4 [" in bar
    assert not any(below)


def test_the_stream_above_the_bar_is_still_one_of_a_terminal(make_trainer, pairs, open_terminal):
    terminal = open_terminal()
    terminal.name = "the terminal"
    found = []
    look = At(lambda: found.append((sys.stdout.isatty(), sys.stdout.encoding, sys.stdout.name)), steps=[1])
    make_trainer(look, ProgressBar()).fit(pairs, steps=1)
    assert found == [(True, "utf-8", "the terminal")]


def test_only_the_terminal_is_written_above(monkeypatch, make_trainer, pairs, open_terminal):
    terminal = open_terminal()
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    streams = []

    def write():
        print("into a file")
        streams.append(sys.stdout)

    make_trainer(At(write, steps=[1]), ProgressBar()).fit(pairs, steps=2)
    assert streams == [piped]
    assert piped.getvalue() == "into a file\n"
    assert "into a file" not in terminal.getvalue()


def fail():
    raise ZeroDivisionError


def test_everything_is_given_back_after_an_exception(make_trainer, pairs, open_terminal):
    terminal = open_terminal()
    with pytest.raises(ZeroDivisionError):
        make_trainer(At(fail, steps=[3]), ProgressBar()).fit(pairs, epochs=2)
    assert sys.stdout is terminal
    assert sys.stderr is terminal
    assert "| 3/8 [" in terminal.screen()[-2]
    assert terminal.screen()[-1] == ""


def test_one_line_a_report_and_an_evaluation_in_a_log_file(make_trainer, pairs, open_log_file):
    log_file = open_log_file()
    make_trainer(ProgressBar()).fit(pairs, epochs=2, eval_data=pairs)
    lines = log_file.getvalue().splitlines()
    for number, epoch in enumerate((1, 2)):
        report, evaluation = lines[2 * number : 2 * number + 2]
        assert report.startswith(f"step {4 * epoch}/8  epoch {epoch}/2  loss ")
        assert "  learning_rate 0.05  " in report
        assert report.endswith(" left")
        assert evaluation.startswith(f"step {4 * epoch}/8  epoch {epoch}/2  eval/loss ")
    assert len(lines) == 4


def test_a_line_to_the_letter(fake_trainer, open_log_file):
    log_file = open_log_file()
    bar, trainer = ProgressBar(), fake_trainer(step=500, total_steps=2000)
    bar.on_fit_begin(trainer)
    bar.on_report(
        trainer, {"loss": 0.123456, "recall": [0.5, 1.0], "steps_per_second": 12.5, "examples_per_second": 400.0}
    )
    trainer.step = 1000
    bar.on_report(trainer, {"loss": float("nan"), "steps_per_second": 1234.5})
    trainer.total_steps = None
    bar.on_report(trainer, {"loss": 1e-7, "steps_per_second": 1.0})
    assert log_file.getvalue().splitlines() == [
        "step 500/2000  loss 0.1235  12.5 steps/s  02:00 left",
        "step 1000/2000  loss nan  1234 steps/s  00:00 left",
        "step 1000  loss 1e-07  1 steps/s",
    ]


@pytest.mark.parametrize("stream", ["open_terminal", "open_log_file"])
def test_quiet_outside_of_fit_and_in_a_prediction(make_trainer, pairs, stream, request):
    written = request.getfixturevalue(stream)()
    trainer = make_trainer(ProgressBar(), Inference(pairs, trigger=Every(steps=1), to=lambda trainer, result: None))
    trainer.evaluate(pairs)
    trainer.predict(pairs)
    assert written.getvalue() == ""
    trainer.fit(pairs, steps=2)
    after_fit = written.getvalue()
    assert after_fit.count("\n") == 1
    trainer.evaluate(pairs)
    assert written.getvalue() == after_fit
