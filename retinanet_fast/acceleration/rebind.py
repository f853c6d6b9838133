"""torchvision's own functions with other values for some of the names that they look up."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from retinanet_fast import ops

__all__ = ["batched_nms", "box_ops_with_our_nms", "rebind", "sigmoid_focal_loss"]


def rebind(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    """The function with the same code, for which each global name of ``names`` means the value given there.

    Its module and everything else that uses it are left as they are.
    """
    globals_ = {**function.__globals__, **names}
    # torch.compile looks globals up in the module of this name, where they have their old values.
    del globals_["__name__"]
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    result = FunctionType(code, globals_, function.__name__, defaults, closure)
    result.__kwdefaults__ = function.__kwdefaults__
    for attribute in ("__qualname__", "__module__", "__doc__"):
        setattr(result, attribute, getattr(function, attribute))
    return result


def box_ops_with_our_nms(box_ops: ModuleType) -> ModuleType:
    """A copy of ``torchvision.ops.boxes`` that has our NMS."""
    copied = ModuleType(box_ops.__name__, box_ops.__doc__)
    vars(copied).update({**vars(box_ops), "nms": nms, "batched_nms": batched_nms})
    return copied


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``ops.nms``, of boxes and scores in one dtype: under autocast torchvision takes a mixture."""
    return ops.nms(*_same_dtype(boxes, scores), iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``ops.batched_nms``, of boxes and scores in one dtype: under autocast torchvision takes a mixture."""
    return ops.batched_nms(*_same_dtype(boxes, scores), idxs, iou_threshold)


def _same_dtype(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(boxes.dtype, scores.dtype)
    return boxes.to(dtype), scores.to(dtype)


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """``ops.sigmoid_focal_loss``, which under autocast, as torchvision's, returns float32 for half types."""
    if inputs.dtype != torch.float64 and torch.is_autocast_enabled(inputs.device.type):
        inputs, targets = inputs.float(), targets.float()
    return ops.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)
