"""Calls of the ops with a gradient, for the tests of torch.func's transforms."""

from collections.abc import Callable
from typing import Any

import torch
from cases import generator, make_grid, random_boxes
from focal_cases import labels, logits, soft_targets
from loss_cases import Head, boxes_of
from torch import Tensor

F64 = torch.float64
CLASSES = 4
TARGETS = labels(3, 6, classes=CLASSES)  # for each of three calls
GRID = make_grid(levels=2, size=(3, 4))
GT = [random_boxes(3, seed=seed, size=30.0, dtype=F64) for seed in range(3)]
ANCHORS = random_boxes(5, seed=7, dtype=F64)


def shifted(seed: int) -> Tensor:
    """Boxes that overlap `ANCHORS`, no corner of which coincides with one of theirs."""
    return ANCHORS + torch.rand(5, 4, generator=generator(seed), dtype=F64) * 4


def head_outputs(seed: int) -> tuple[Tensor, ...]:
    head = Head(GRID, boxes_of(1), dtype=F64, seed=seed)
    return (*head.logits, *head.deltas)


def whole_loss(lib: Any, call: int, **options: object) -> Callable[..., Tensor]:
    def loss(*outputs: Tensor) -> Tensor:
        found = lib.retinanet_loss(
            outputs[:2], outputs[2:], GRID, [GT[call]], [torch.tensor([0, 2, 1])], **options
        )
        return found["classification"] + 3 * found["bbox_regression"]

    return loss


# name: what makes the function of `ops` or `reference` for one of three calls, and the arguments of that call.
Case = tuple[Callable[[Any, int], Callable[..., Tensor]], Callable[[int], tuple[Tensor, ...]]]
CASES: dict[str, Case] = {
    "sigmoid_focal_loss-labels": (
        lambda lib, call: lambda x: lib.sigmoid_focal_loss(x, TARGETS[call], 0.3, 1.5),
        lambda call: (logits(6, CLASSES, dtype=F64, seed=call),),
    ),
    "sigmoid_focal_loss-soft": (
        lambda lib, call: lambda x, t: lib.sigmoid_focal_loss(x, t, -1, 2.0, "mean"),
        lambda call: (
            logits(6, CLASSES, dtype=F64, seed=call),
            soft_targets(6, CLASSES, dtype=F64, seed=call),
        ),
    ),
    "softmax_focal_loss": (
        lambda lib, call: lambda x: lib.softmax_focal_loss(x, TARGETS[call].clamp_min(0), [1, 2, 3, 4], 1.5),
        lambda call: (logits(6, CLASSES, dtype=F64, seed=call),),
    ),
    "box_iou": (
        lambda lib, call: lambda a, b: lib.box_iou(a, b),
        lambda call: (shifted(call), shifted(call + 3)[:4]),
    ),
    "encode_boxes": (
        lambda lib, call: lambda b, a: lib.encode_boxes(b, a, (10.0, 10.0, 5.0, 5.0)),
        lambda call: (shifted(call), ANCHORS + call),
    ),
    "decode_boxes": (
        lambda lib, call: lambda d, a: lib.decode_boxes(d, a, max_log_scale=0.8, image_size=(90, 80)),
        lambda call: (torch.randn(5, 4, generator=generator(call), dtype=F64), ANCHORS + call),
    ),
    "retinanet_loss-l1": (lambda lib, call: whole_loss(lib, call), head_outputs),
    "retinanet_loss-giou": (lambda lib, call: whole_loss(lib, call, box_loss="giou"), head_outputs),
}
