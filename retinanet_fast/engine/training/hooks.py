"""What happens beside the steps of a run: hooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Run = Any


@dataclass(frozen=True)
class StepReport:
    """A step that is done: its number over the whole run, from 1, and its losses as means over all processes."""

    step: int
    losses: dict[str, float]
    learning_rate: float
    skipped: bool = False


class Hook:
    """Called at the moments of a run; each method does nothing by default."""

    def on_start(self, run: Run) -> None: ...

    def after_step(self, run: Run, report: StepReport) -> None: ...

    def after_epoch(self, run: Run, record: dict[str, Any]) -> None: ...

    def after_save(self, run: Run) -> None: ...

    def on_end(self, run: Run) -> None: ...
