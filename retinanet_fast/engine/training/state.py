"""What a step changes: all that a checkpoint needs to go on from."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from retinanet_fast.engine.training.ema import Ema


@dataclass
class TrainState:
    """The state of a training run after ``step`` steps.

    Attributes:
        model: the detector itself, not a wrapper of it.
        scaler: of float16's gradients; does nothing in other precisions.
        ema: the averaged weights, where the recipe asks for them.
        step: steps done since the run began.
        epoch_losses: the losses of the steps since the last record of an epoch, in the order of ``loss_names``.
        epoch_seconds: what those steps took, in the processes that have ended.
        skipped: steps since then that changed nothing, since their loss was not finite.
        skipped_in_row: how many of the last steps those were, without one between that was finite.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None
    step: int = 0
    loss_names: list[str] = field(default_factory=list)
    epoch_losses: list[list[float]] = field(default_factory=list)
    epoch_seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0

    @property
    def best_model(self) -> nn.Module:
        """The weights to evaluate and to keep: the averaged ones, where there are such."""
        return self.ema.model if self.ema is not None else self.model
