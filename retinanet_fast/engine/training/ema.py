"""An average of the weights over the last steps, which detects better than the last weights do."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Ema:
    """An exponential moving average of a model's weights and buffers: ``average += (1 - d) (weights - average)``.

    The first steps, where the weights are still far from good, are forgotten faster: d is the smaller of ``decay`` and
    (1 + step) / (10 + step).

    Attributes:
        model: a copy of the model with the averaged weights, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int, left_out: Tensor) -> None:
        """Take in the weights after ``step`` steps, in a few launches.

        Args:
            left_out: a scalar on the model's device; above 0 where the step changed nothing, and so must this.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, weights = tensors_of(self.model), tensors_of(model)
        floating = [index for index, tensor in enumerate(averages) if tensor.is_floating_point()]
        own, new = ([tensors[index] for index in floating] for tensors in (averages, weights))
        if left_out.device.type == "cpu":
            if left_out > 0:
                return
            torch._foreach_lerp_(own, new, 1 - decay)
        else:
            # The host does not know: the device multiplies by zero.
            change = torch._foreach_sub(new, own)
            torch._foreach_mul_(change, (1 - decay) * (left_out <= 0))
            torch._foreach_add_(own, change)
        for index in set(range(len(averages))) - set(floating):  # batch norm's counters
            averages[index].copy_(weights[index])


def tensors_of(model: nn.Module) -> list[Tensor]:
    """The model's parameters and buffers, in one order for all models of one architecture."""
    return [*model.parameters(), *model.buffers()]
