from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.reference.batched_nms import batched_nms


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (int64) of the boxes that no better kept box overlaps by IoU > threshold, best first."""
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)
