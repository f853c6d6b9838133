"""Weights in the order of their memory, for the time of an optimizer's step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

TO_MEMORY, FROM_MEMORY = (0, 2, 3, 1), (0, 3, 1, 2)  # of channels_last: [K, C, H, W] lies as [K, H, W, C]


class _Before(NamedTuple):
    """What a weight had before the block."""

    weight: nn.Parameter
    gradient: Tensor
    state: dict[str, Tensor]  # the moments, which have the weight's shape


@contextmanager
def memory_order(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within the block, weights on the CPU that are channels_last have the shape of their memory, ``[K, H, W, C]``, and
    so have their gradients and moments.

    torch's fused optimizers go through contiguous tensors more than twice as fast as through others of the same memory
    (SGD and AdamW, torch 2.13 and 2.14), and mix up the elements where weight, gradient and moment differ in strides.
    Here a gradient of other strides, which autograd does not make, is copied.

    Raises:
        RuntimeError: a moment has other strides than its weight.
    """
    changed: list[_Before] = []
    try:
        for group in optimizer.param_groups:
            for weight in group["params"]:
                if weight.grad is not None and weight.device.type == "cpu" and _is_channels_last(weight):
                    changed.append(_to_memory(weight, optimizer.state[weight]))
        yield
    finally:
        for weight, gradient, state in changed:
            weight.data = weight.data.permute(FROM_MEMORY)
            weight.grad = gradient
            optimizer.state[weight].update(state)


def _to_memory(weight: nn.Parameter, state: dict[str, Tensor]) -> _Before:
    assert weight.grad is not None
    moments = {name: moment for name, moment in state.items() if moment.shape == weight.shape}
    for name, moment in moments.items():
        if moment.stride() != weight.stride():
            raise RuntimeError(
                f"{name}: expected the strides of its weight, {weight.stride()}, got {moment.stride()}"
            )
    before = _Before(weight, weight.grad, moments)
    weight.data = weight.data.permute(TO_MEMORY)
    weight.grad = before.gradient.permute(TO_MEMORY).contiguous()
    state.update({name: moment.permute(TO_MEMORY) for name, moment in moments.items()})
    return before


def _is_channels_last(weight: Tensor) -> bool:
    """And not also contiguous, as a 1x1 convolution's weights are."""
    return (
        weight.dim() == 4
        and not weight.is_contiguous()
        and weight.is_contiguous(memory_format=torch.channels_last)
    )
