"""What a step computes, and how fast this machine computes at best."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Harness
from benchmarks.training_step.works import Work
from retinanet_fast.nn.batch_sizes import padded_size


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a batch, a multiply-add counted as two: the convolutions, which are nearly all."""

    forward: int
    step: int  # forward and backward


def flops_of(model: Any, work: Work) -> Flops:
    """Counted by torch on meta tensors, which have shapes and no values: nothing is computed.

    Args:
        model: one of ours: its ``network`` is the part with convolutions.
    """
    twin = copy.deepcopy(model).to("meta").train()
    batch = torch.empty(work.images, 3, *padded_size([(work.height, work.width)], 32), device="meta")
    with FlopCounterMode(display=False) as counter:
        outputs, _ = twin.network(batch)
        forward = counter.get_total_flops()
        torch.stack([level.sum() for levels in outputs.values() for level in levels]).sum().backward()
    return Flops(forward, counter.get_total_flops())


def matmul_rate(harness: Harness, dtype: torch.dtype, quick: bool) -> float:
    """Operations per second of a large square matrix product, the median of a second's samples."""
    size = 256 if quick else 2048 if harness.device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=harness.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / harness.time(lambda: torch.mm(a, b, out=out)).median
