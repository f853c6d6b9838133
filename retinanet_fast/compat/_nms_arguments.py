"""What other libraries' NMS takes, as the ops take it."""

from __future__ import annotations

import torch
from torch import Tensor


def comparable(boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes and scores in one dtype, with the same IoUs and the same order as before.

    float16 and bfloat16 become float32, in which the ops compute them anyway. float64 scores of narrower boxes are
    replaced by their places in the order: rounded they could tie, and wider boxes would have other IoUs.
    """
    boxes, scores = boxes.detach(), scores.detach()
    if boxes.dtype == scores.dtype:
        return boxes, scores
    if boxes.is_floating_point():
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    if torch.promote_types(scores.dtype, boxes.dtype) == boxes.dtype:
        return boxes, scores.to(boxes.dtype)
    places = torch.empty_like(scores, dtype=boxes.dtype)
    places[scores.argsort(descending=True, stable=True)] = -torch.arange(
        scores.shape[0], dtype=boxes.dtype, device=scores.device
    )
    return boxes, places


def integer_classes(idxs: Tensor) -> Tensor:
    """Classes as integers that are equal where the classes are; fractions are told apart too."""
    if idxs.is_floating_point():
        return (idxs.double() + 0.0).view(torch.int64)  # the bits; -0.0 + 0.0 is 0.0
    return idxs.to(torch.int64)
