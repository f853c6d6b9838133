from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.reference._common import compute_dtype


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """``inter / (area1 + area2 - inter)`` of every pair, ``[N, 4]`` and ``[M, 4]`` to ``[N, M]``; xyxy boxes.

    In float32, or float64 if boxes are. Two boxes without area give 0/0, a NaN.
    """
    dtype = compute_dtype(boxes1, boxes2)
    a, b = boxes1.to(dtype)[:, None], boxes2.to(dtype)[None, :]
    width = (torch.minimum(a[..., 2], b[..., 2]) - torch.maximum(a[..., 0], b[..., 0])).clamp_min(0)
    height = (torch.minimum(a[..., 3], b[..., 3]) - torch.maximum(a[..., 1], b[..., 1])).clamp_min(0)
    inter = width * height
    return inter / (_area(a) + _area(b) - inter)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
