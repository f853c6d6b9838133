from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.reference.batched_nms import batched_nms


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (int64), best first, of the boxes that overlap no better kept box by IoU > threshold."""
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)
