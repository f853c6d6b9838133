from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.reference._common import compute_dtype
from retinanet_fast.reference.box_iou import box_iou


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``nms`` within each class of ``idxs``; indices (int64) of the kept boxes, best first.

    Equal scores keep their input order and NaN scores come first. The IoU, in the wider precision of boxes and scores
    but at least float32, is compared with the threshold as float64.
    """
    boxes = boxes.to(compute_dtype(boxes, scores))
    order = scores.sort(descending=True, stable=True).indices
    kept = []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        iou = box_iou(boxes[best][None], boxes[rest])[0]
        order = rest[~((iou.double() > iou_threshold) & (idxs[rest] == idxs[best]))]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.int64, device=boxes.device)
