"""How the ops work on the DTensors of ``torch.distributed.tensor``, whose import takes half a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NoReturn

import torch
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard
from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
from torch.distributed.tensor.experimental import register_sharding

from retinanet_fast import _ext  # noqa: F401  registers the ops

# Placements of the outputs, and of the arguments that are tensors.
Strategy = tuple[Sequence[Placement], Sequence[Placement]]
_WHOLE, _ROWS, _SUM = Replicate(), Shard(0), Partial("sum")
_REFUSED = ("nms", "batched_nms", "match_anchors", "retinanet_loss", "retinanet_detect")


@cache
def register() -> None:
    """Registers the strategies. A second call does nothing."""
    _shard("sigmoid_focal_loss", 2, 1, _sigmoid_focal_loss)
    _shard("sigmoid_focal_loss_with_gradient", 2, 2, _sigmoid_focal_loss_with_gradient)
    _shard("sigmoid_focal_loss_backward", 3, 2, _sigmoid_focal_loss_backward)
    _shard("softmax_focal_loss", 3, 1, _softmax_focal_loss)
    _shard("softmax_focal_loss_backward", 4, 1, _softmax_focal_loss_backward)
    _shard("box_iou", 2, 1, lambda *_: [([_ROWS], [_ROWS, _WHOLE]), ([Shard(1)], [_WHOLE, _ROWS])])
    _shard(
        "box_iou_backward",
        3,
        2,
        lambda *_: [([_ROWS, _SUM], [_ROWS, _ROWS, _WHOLE]), ([_SUM, _ROWS], [Shard(1), _WHOLE, _ROWS])],
    )
    for op in ("encode_boxes", "decode_boxes"):
        _shard(op, 2, 1, lambda *_: [([_ROWS], [_ROWS] * 2)])
        _shard(f"{op}_backward", 3, 2, lambda *_: [([_ROWS] * 2, [_ROWS] * 3)])
    for op in _REFUSED:
        torch.library.register_torch_dispatch(f"retinanet_fast::{op}", DTensor, _refuse)


def _shard(op: str, tensors: int, outputs: int, strategies: Callable[..., list[Strategy]]) -> None:
    """Registers what ``strategies`` allows beside whole copies everywhere, given the arguments of a call."""

    def every(*arguments: Any) -> list[tuple[list[Placement], list[Placement | None]]]:
        options: list[Placement | None] = [None] * (len(arguments) - tensors)
        # No class weights have no placement; at the end of the arguments they are left out.
        there = [argument is not None for argument in arguments[:tensors]]
        whole: Strategy = ([_WHOLE] * outputs, [_WHOLE] * tensors)
        return [
            (list(found), [p if given else None for p, given in zip(needed, there)] + options)
            for found, needed in [whole, *strategies(*arguments)]
        ]

    overload = getattr(torch.ops.retinanet_fast, op).default
    register_sharding(overload)(every)
    # What was found for a call is kept for the next one like it. As registered, that would be one of another reduction.
    propagator = DTensor._op_dispatcher.sharding_propagator
    propagator.op_to_schema_info[overload] = RuntimeSchemaInfo(tensors, needs_pytree=True)


def _sigmoid_focal_loss(
    inputs: Any, targets: Any, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none", *_: Any
) -> list[Strategy]:
    if reduction == "mean":  # of a shard it would divide by the shard's elements
        return []
    return [
        ([_SUM if reduction == "sum" else Shard(dim)], [Shard(dim), Shard(dim)])
        for dim in range(len(targets.shape))
    ]


def _sigmoid_focal_loss_with_gradient(*arguments: Any) -> list[Strategy]:
    return [([*loss, needed[0]], needed) for loss, needed in _sigmoid_focal_loss(*arguments)]


def _sigmoid_focal_loss_backward(
    grad: Any, inputs: Any, targets: Any, alpha: float, gamma: float, reduction: str, targets_grad: bool
) -> list[Strategy]:
    if reduction == "mean":
        return []
    return [
        (
            [Shard(dim), Shard(dim) if targets_grad else _WHOLE],
            [_WHOLE if reduction == "sum" else Shard(dim), Shard(dim), Shard(dim)],
        )
        for dim in range(len(targets.shape))
    ]


def _softmax_focal_loss(
    inputs: Any,
    targets: Any,
    class_weights: Any = None,
    alpha: float = 1.0,
    gamma: float = 2.0,
    reduction: str = "mean",
    *_: Any,
) -> list[Strategy]:
    if reduction == "mean":
        return []
    return [([_SUM if reduction == "sum" else _ROWS], [_ROWS, _ROWS, _WHOLE])]


def _softmax_focal_loss_backward(
    grad: Any, inputs: Any, targets: Any, class_weights: Any, alpha: float, gamma: float, reduction: str
) -> list[Strategy]:
    if reduction == "mean":
        return []
    return [([_ROWS], [_WHOLE if reduction == "sum" else _ROWS, _ROWS, _ROWS, _WHOLE])]


def _refuse(mode: Any, function: Any, types: Any, arguments: Any, keywords: Any) -> NoReturn:
    op = function.name().removeprefix("retinanet_fast::")
    raise NotImplementedError(
        f"{op}: expected tensors that lie on this process alone, got a DTensor; "
        "call it with its part, tensor.to_local(), or with all of it, tensor.full_tensor()"
    )
