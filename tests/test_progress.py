"""Laws of progress: estimates are right, bars end at the last step, and no file gets a carriage return."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import recbole_cora
from recbole_cora import progress
from recbole_cora.pace import Pace, duration, pace_text
from recbole_cora.progress import Breaks, Progress
from recbole_cora.training.trainer import CoraTrainer


class Clock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A standard error that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines that progress writes."""
    written: list[str] = []
    monkeypatch.setattr(progress, "say", written.append)
    return written


def advance(bar: Progress, clock: Clock, seconds: float, updates: int = 1, units: int = 1) -> None:
    for _ in range(updates):
        clock.now += seconds
        bar.update(units)


def seconds_of(text: str) -> float:
    """Return the seconds of the duration after "about"."""
    found = re.search(r"about (?:(\d+) h ?)?(?:(\d+) min)?", text)
    assert found
    return 3600 * int(found[1] or 0) + 60 * int(found[2] or 0)


@pytest.mark.parametrize("step_s", [0.03, 0.4, 3.1, 10.2, 400.0])
def test_the_estimate_is_right_despite_a_slow_first_step(lines: list[str], step_s: float) -> None:
    """It is given once, within the first 2% of the work, and errs by less than 20% with steps that vary by 30%."""
    clock = Clock()
    total = 20_000
    bar = Progress("train CoRA", "step", total, clock=clock, remedy="--max_steps= bounds it")
    advance(bar, clock, min(20 * step_s, 25.0))  # warm-up
    for step in range(total // 50):
        advance(bar, clock, step_s * (1.3 if step % 2 else 0.7))
    (estimate,) = [line for line in lines if "about" in line]
    expected = total * step_s
    if expected < 48 * 3600:
        assert abs(seconds_of(estimate) - expected) < 0.2 * expected
    assert "for 20,000 steps (" in estimate and estimate.endswith("; --max_steps= bounds it")


def test_the_estimate_reads_as_a_sentence(lines: list[str]) -> None:
    """It names the whole time, the count and the pace."""
    clock = Clock()
    advance(Progress("train CoRA", "step", 2000, clock=clock, remedy="--max_steps= bounds it"), clock, 10.2, 6)
    assert lines[0] == "train CoRA: about 5 h 40 min for 2,000 steps (10.2 s a step); --max_steps= bounds it"
    lines.clear()
    advance(Progress("score test", "row", 7331, clock=clock), clock, 300.0, 2, units=512)
    assert lines[0] == "score test: about 1 h 12 min for 7,331 rows (0.59 s a row)"


def test_short_work_is_not_estimated(lines: list[str]) -> None:
    """Work of less than two minutes writes nothing, nor does work that is not to be shown."""
    clock = Clock()
    advance(Progress("train MF", "step", 100, clock=clock), clock, 0.5, 100)
    assert not lines
    advance(Progress("train MF", "step", 1000, show=False, clock=clock), clock, 10, 1000)
    assert not lines


def test_evaluations_are_announced_and_counted_once_measured(lines: list[str]) -> None:
    """The first estimate says that it leaves them out; after the first of them, a second counts them."""
    clock = Clock()
    bar = Progress("train", "step", 2000, clock=clock, breaks=Breaks("evaluations on valid", 100))
    advance(bar, clock, 1.0, 100)
    with bar.pause():
        clock.now += 200
    estimates = [line for line in lines if "about" in line]
    assert estimates == [
        "train: about 33 min for 2,000 steps (1.0 s a step), without 20 evaluations on valid",
        "train: about 1 h 35 min for the remaining 1,900 steps (1.0 s a step) and 19 evaluations on valid (3 min each)",
    ]
    advance(bar, clock, 1.0, 100)
    assert bar.seconds_left() == pytest.approx(1800 + 18 * 200, rel=0.01)  # the pause does not slow the steps


def test_a_resumed_work_is_estimated_from_its_own_steps(lines: list[str]) -> None:
    """Steps of an earlier process took no time in this one."""
    clock = Clock()
    bar = Progress("train", "step", 2000, clock=clock)
    bar.start_at(1000)
    advance(bar, clock, 3.0, 5)
    assert lines == ["train: about 50 min for the remaining 1,000 steps (3.0 s a step)"]


def test_a_redirected_work_writes_a_line_a_minute(
    lines: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but whole lines, one a minute, and one at the end."""
    clock = Clock()
    with Progress("train CoRA", "step", 200, clock=clock) as bar:
        bar.note("train loss 0.6000")
        advance(bar, clock, 3.1, 200)
    minutes = [line for line in lines if " left" in line]
    assert len(minutes) == 10  # 620 s
    assert minutes[0] == "train CoRA: step 20 of 200, 3.1 s a step, 9 min left; train loss 0.6000"
    assert lines[-1] == "train CoRA: 200 steps in 10 min"
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """It draws a bar with the note, and writes no lines."""
    terminal, clock = Terminal(), Clock()
    monkeypatch.setattr("sys.stderr", terminal)
    with Progress("train CoRA", "step", 20, clock=clock) as bar:
        bar.note("train loss 0.6000")
        advance(bar, clock, 5.0, 20)
    assert "\r" in terminal.getvalue() and "train loss 0.6000" in terminal.getvalue() and not lines
    with Progress("train CoRA", "step", 20, show=False):
        pass
    assert "20/20" in terminal.getvalue()


def test_durations_and_paces_are_short_words() -> None:
    """At most two units."""
    seconds = (4.2, 59.7, 90, 3600, 20400, 86400 * 2, 86400 * 3 + 7300)
    assert [duration(s) for s in seconds] == ["4 s", "1 min", "2 min", "1 h", "5 h 40 min", "2 d", "3 d 2 h"]
    paces = [pace_text(s, "row") for s in (0.0005, 0.57, 3.14, 280)]
    assert paces == ["2,000 rows a second", "0.57 s a row", "3.1 s a row", "5 min a row"]
    assert pace_text(1e-7, "B") == "10.0 MB a second"


def test_the_pace_is_unknown_until_it_is_measured() -> None:
    """A first update alone is no measurement, unless it took long."""
    clock = Clock()
    fast, slow = Pace(clock), Pace(clock)
    clock.now = 10.0
    fast.update(1)
    clock.now = 40.0
    slow.update(4)
    assert fast.seconds_per_unit() is None and slow.seconds_per_unit() == 10.0


@pytest.mark.parametrize(("max_steps", "total"), [(5, 5), (100, 16), (None, 16)])
def test_the_training_counts_to_its_last_step(
    toy: Path, monkeypatch: pytest.MonkeyPatch, max_steps: int | None, total: int
) -> None:
    """The bar ends at `max_steps`, or at the last epoch's last step if that comes first."""
    totals: list[Any] = []
    train_epoch = CoraTrainer._train_epoch

    def noting(self: CoraTrainer, *arguments: Any, **options: Any) -> float:
        totals.append((self._bar.total, self._bar.show))
        return train_epoch(self, *arguments, **options)

    monkeypatch.setattr(CoraTrainer, "_train_epoch", noting)
    recbole_cora.run("MF", "toy", {"epochs": 2, "train_batch_size": 25, "seed": 3, "max_steps": max_steps})
    assert set(totals) == {(total, True)}


def test_the_train_loss_of_an_epoch_is_the_mean_of_its_steps(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log and in the curve, whatever the number of batches; the bar shows the mean so far."""
    losses: list[float] = []
    notes: list[str] = []
    check, note = CoraTrainer._check_nan, Progress.note

    def noting(self: CoraTrainer, loss: Any) -> None:
        losses.append(loss.item())
        check(self, loss)

    def keeping(self: Progress, text: str) -> None:
        notes.append(text)
        note(self, text)

    monkeypatch.setattr(CoraTrainer, "_check_nan", noting)
    monkeypatch.setattr(Progress, "note", keeping)
    with caplog.at_level(logging.INFO):
        result = recbole_cora.run("MF", "toy", {"epochs": 2, "train_batch_size": 25, "seed": 3})
    per_epoch = len(losses) // 2
    assert per_epoch == 8
    means = [sum(losses[:per_epoch]) / per_epoch, sum(losses[per_epoch:]) / per_epoch]
    curve = json.loads((Path(result["folder"]) / "result.json").read_text())["curve"]
    assert [epoch["loss"] for epoch in curve] == pytest.approx(means)
    logged = re.findall(r"train loss\S*: (\d+\.\d+)", re.sub(r"\x1b\[[\d;]*m", "", caplog.text))
    assert [float(loss) for loss in logged] == pytest.approx(means, abs=1e-4)
    assert notes[1].startswith(f"train loss {(losses[0] + losses[1]) / 2:.4f}")


@pytest.mark.slow
def test_a_redirected_run_has_no_carriage_return(toy: Path, folders: dict[str, Path]) -> None:
    """A run whose standard error is no terminal writes lines only, although it shows its progress."""
    options = [f"--llm={folders['llama']}", "--max_steps=3", "--seed=3"]
    command = [sys.executable, "-m", "recbole_cora.cli", "run", "--model=CoRA", "--dataset=toy", *options]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"\r" not in done.stdout + done.stderr and b"train loss" in done.stdout + done.stderr
