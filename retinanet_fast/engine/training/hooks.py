"""What a training run calls as it goes: everything but the steps themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run

# Draws a run that was just evaluated into a folder. It is pickled: a function of a module, or a partial one.
Drawing = Callable[["Run", Path], object]


@dataclass
class StepReport:
    """What a step found, on the host. On a GPU it comes a few steps after the step.

    Attributes:
        step: steps done since the run began, with this one.
        losses: by name, the mean over the images of all processes.
        skipped: the loss was not finite, and the step changed nothing.
        stop: a process was asked to stop.
    """

    step: int
    losses: dict[str, float]
    learning_rate: float
    skipped: bool = False
    stop: bool = False


class Hook:
    """Called by the loop, in every process; each method may be left out. The main process alone writes files."""

    def on_start(self, run: Run) -> None:
        """Before the first step; ``run.state`` is restored where the run is resumed."""

    def after_step(self, run: Run, report: StepReport) -> None:
        """After each step, in order."""

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """After each epoch and its evaluation, before its checkpoint; may add plain values to the record. With
        ``score_beside`` COCO's numbers come later, and only then is the record in ``run.history``."""

    def after_save(self, run: Run) -> None:
        """After a checkpoint was written."""

    def drawing(self) -> Drawing | None:
        """What the process that scores beside training is to draw (``score_beside``); ``run.drawn`` tells of what
        epoch it has. It sees of the run what it is trained on, its history and its last evaluation."""
        return None

    def on_end(self, run: Run) -> None:
        """When the loop is left, by the last step, a stop or an error."""
