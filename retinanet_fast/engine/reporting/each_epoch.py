"""Hooks that do something once after each epoch, when its checkpoint is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from retinanet_fast.engine.training.hooks import Hook

if TYPE_CHECKING:
    from retinanet_fast.engine.training.run import Run


class EachEpoch(Hook):
    """Calls ``each_epoch`` for each epoch of this start of the run. A checkpoint within an epoch does not count."""

    def __init__(self) -> None:
        self._epochs = 0

    def on_start(self, run: Run) -> None:
        self._epochs = len(run.history)

    def after_save(self, run: Run) -> None:
        if len(run.history) > self._epochs:
            self._epochs = len(run.history)
            self.each_epoch(run, run.history[-1])

    def each_epoch(self, run: Run, record: dict[str, Any]) -> None:
        """An epoch is over, and its checkpoint is on the disk."""
