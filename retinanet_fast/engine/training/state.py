"""What a step changes: all that a checkpoint needs to go on from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from retinanet_fast.engine.checkpoint import Progress
from retinanet_fast.engine.training.ema import Ema


@dataclass(kw_only=True)
class TrainState(Progress):
    """The state of a training run after ``step`` steps.

    Attributes:
        model: the detector itself, not a wrapper of it.
        scaler: of float16's gradients; does nothing in other precisions.
        ema: the averaged weights, where the recipe asks for them.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Ema | None = None

    @property
    def best_model(self) -> nn.Module:
        """The weights to evaluate and to keep: the averaged ones, where there are such."""
        return self.ema.model if self.ema is not None else self.model
