"""Progress on a terminal and in a file, and the time left."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
import run_stand_in

from retinanet_fast.engine.reporting import progress as progresses
from retinanet_fast.engine.reporting import training_progress
from retinanet_fast.engine.reporting.lines import epoch_line, time_line
from retinanet_fast.engine.reporting.progress import Progress, say
from retinanet_fast.engine.reporting.training_progress import TimeLeft, TrainingProgress
from retinanet_fast.engine.training.hooks import StepReport


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """The host's time, which passes where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (progresses, training_progress):
        monkeypatch.setattr(module, "time", type("time", (), {"monotonic": lambda: made.now}))
    return made


def test_a_file_gets_plain_lines_now_and_then(clock: Clock) -> None:
    file = io.StringIO()
    progress = Progress("evaluate", 100, file)
    for done in range(1, 101):
        clock.now += 1
        if progress.due():
            progress.draw(done, "1.0 images/s")
    progress.close()
    lines = file.getvalue().splitlines()
    assert lines[0] == "evaluate: 20/100, 01:20 left, 1.0 images/s"
    assert [line.split(",")[0] for line in lines] == [f"evaluate: {done}/100" for done in range(20, 101, 20)]
    assert "\r" not in file.getvalue()


def test_a_terminal_gets_a_bar_that_goes_away(clock: Clock) -> None:
    terminal = Terminal()
    progress = Progress("evaluate", 10, terminal)
    clock.now += 5
    progress.draw(5, "1.0 images/s")
    assert re.search(r"evaluate: .* 5/10, 00:05 left, 1.0 images/s", terminal.getvalue())
    assert "\n" not in terminal.getvalue()
    progress.close()
    assert terminal.getvalue().split("\r")[-2].strip() == ""  # written over
    progress.close()


def test_a_line_is_said_above_the_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"


def test_the_time_left_counts_steps_and_what_is_between_epochs() -> None:
    left, now = TimeLeft(), 0.0
    for _ in range(2):
        for _ in range(4):
            now += 1
            left.step(now)
        now += 10  # the evaluation
        left.epoch()
    now += 1
    left.step(now)
    # One second a step, and one step with the 10 seconds before it between epochs, twice.
    assert left.seconds(steps=3, ends=1) == 3 * 1 + 1 * 11
    assert left.seconds(steps=0, ends=0) == 0


def test_training_in_a_file(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr("sys.stderr", file)
    run: Any = run_stand_in.stand_in(tmp_path)
    hook = TrainingProgress()
    hook.on_start(run)
    for step in range(1, 6):
        hook.after_step(run, StepReport(step, {"classification": 1.0, "bbox_regression": 0.5}, 0.01))
        clock.now += 10
        if step == 4:
            hook.after_epoch(run, {})
    hook.on_end(run)
    # 9 of 12 steps are left at 10 seconds each; two images a step.
    assert file.getvalue().splitlines() == [
        "epoch 1/3: 3/4, 01:30 left, loss 1.5000, step 3, lr 0.01, 0.2 images/s"
    ]


def test_an_epoch_in_two_lines(tmp_path: Path) -> None:
    run = run_stand_in.stand_in(tmp_path)
    made = run_stand_in.record(run, 2)
    line = epoch_line(made, 3)
    assert line.startswith("epoch 2/3  loss 1.5000 (classification 0.5000, bbox_regression 1.0000)")
    assert f"AP50 {made['AP50']:.3f}" in line
    assert time_line(made) == (
        "  time: data 12%, forward 38%, loss 6%, backward 44%; 2.0 images/s; memory 1.5 GiB"
    )
