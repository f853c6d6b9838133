"""A training run: what it trains on, where it writes, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, evaluate
from retinanet_fast.engine.evaluation.results import Detected
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_record import RunRecord
from retinanet_fast.engine.training.clock import PhaseClock
from retinanet_fast.engine.training.state import TrainState


@dataclass
class Run:
    """What the parts of a run share.

    Attributes:
        say: prints a line, in the main process alone.
        state: set when the run starts.
        history: one record per epoch that is evaluated and scored, as in ``metrics.jsonl``.
        evaluation: the last one; its detections are ``detected``. Both are in the main process alone.
        record: what is written down of it; made when the run starts, or, to resume one, that of ``saved_record``.
        environment: what ``describe`` says of the run's process, in the one that scores beside it.
        drawn: the last epoch that the process which scores beside training has drawn.
        steps_per_epoch: set when the run starts.
    """

    recipe: Recipe
    train_split: Split
    val_split: Split | None
    out: Path
    device: torch.device
    problems: Problems
    say: Callable[[str], None] = print
    processes: Processes = field(default_factory=Processes)
    history: list[dict[str, Any]] = field(default_factory=list)
    evaluation: Evaluation | None = None
    detected: Detected | None = None
    record: RunRecord | None = None
    environment: list[tuple[str, str]] = field(default_factory=list)
    drawn: int = 0
    steps_per_epoch: int = 0

    def __post_init__(self) -> None:
        self.clock = PhaseClock(self.device)
        self._state: TrainState | None = None
        if not self.processes.is_main:
            self.say = lambda _: None

    @property
    def state(self) -> TrainState:
        """Model, optimizer and step.

        Raises:
            RuntimeError: the run has not been started.
        """
        if self._state is None:
            raise RuntimeError("this run has no state yet: train() makes it")
        return self._state

    @state.setter
    def state(self, state: TrainState) -> None:
        self._state = state

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.recipe.epochs * self.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Epochs that are finished; the last of them may be without COCO's numbers, and so not in the history yet."""
        waits = self._state is not None and self._state.unscored is not None
        return len(self.history) + waits

    def score(self) -> Evaluation:
        """COCO's numbers of the detections of the last evaluation."""
        assert self.val_split is not None
        assert self.detected is not None
        return evaluate(self.val_split, self.detected.results, self.detected.image_ids, self.recipe.evaluator)
