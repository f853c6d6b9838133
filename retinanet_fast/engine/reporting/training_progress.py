"""The progress of training, with the time that is left for the whole run."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.engine.training.hooks import Hook, StepReport

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run

# Steps over which the loss that is shown is a mean.
STEPS = 20


class TrainingProgress(Hook):
    """Shows epoch, step, loss, images/s, learning rate and the time left: on a terminal as a bar, in a file as a line
    every 20 seconds."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._losses: deque[float] = deque(maxlen=STEPS)
        self._left = TimeLeft()
        self._first = 0

    def on_start(self, run: Run) -> None:
        self._left = TimeLeft()

    def after_step(self, run: Run, report: StepReport) -> None:
        per_epoch = run.steps_per_epoch
        epoch, done = divmod(report.step - 1, per_epoch)
        done += 1
        self._left.step(time.monotonic())
        if not report.skipped:
            self._losses.append(sum(report.losses.values()))
        if self._progress is None:
            self._progress = Progress(f"epoch {epoch + 1}/{run.recipe.epochs}", per_epoch)
            self._first = done
        if self._progress.due():
            note = f"step {report.step}, lr {report.learning_rate:.2g}"
            if self._losses:
                note = f"loss {sum(self._losses) / len(self._losses):.4f}, {note}"
            seconds = time.monotonic() - self._progress.started
            if done > self._first:
                speed = (done - self._first) * run.recipe.batch_size / seconds
                note += f", {speed:.1f} images/s"
            left = self._left.seconds(run.recipe.epochs * per_epoch - report.step, run.recipe.epochs - epoch)
            self._progress.draw(done, note, left)
        if done == per_epoch:
            self._close()

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        self._left.epoch()

    def on_end(self, run: Run) -> None:
        self._close()

    def _close(self) -> None:
        if self._progress is not None:
            self._progress.close()
            self._progress = None


class TimeLeft:
    """The time left, from the mean time of a step and the mean time between two epochs: evaluation, checkpoint,
    pictures."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._between = False
        self._steps = [0, 0.0]
        self._ends = [0, 0.0]

    def step(self, now: float) -> None:
        """A step is done."""
        if self._last is not None:
            count = self._ends if self._between else self._steps
            count[0] += 1
            count[1] += now - self._last
        self._last, self._between = now, False

    def epoch(self) -> None:
        """An epoch's steps are done: what comes before the next step is evaluation and the like."""
        self._between = True

    def seconds(self, steps: int, ends: int) -> float:
        """The time left for so many steps and ends of epochs. The first epoch does not know what its end will take."""
        return sum(
            left * seconds / max(1, count)
            for left, (count, seconds) in ((steps, self._steps), (ends, self._ends))
        )
