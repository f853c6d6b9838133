from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import compute_dtype, image_targets
from retinanet_fast.reference.box_iou import box_iou
from retinanet_fast.structures import AnchorGrid


def match_anchors(
    anchors: Tensor | AnchorGrid,
    gt_boxes: Sequence[Tensor] | Tensor,
    *,
    gt_counts: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality_matches: bool = True,
    match_zero_iou: bool = True,
) -> Tensor:
    """For each image and anchor, the index of its box, -1 for background or -2 for ignored; ``[B, A]`` int64.

    An anchor belongs to the box with which it has its best IoU (the first on ties) if that is at least
    ``high_threshold``, is background below ``low_threshold``, and is ignored between the two. With low-quality matches,
    an anchor that has some box's best IoU (ties included) also belongs to its own best box. ``match_zero_iou=False``
    leaves out boxes that no anchor overlaps; otherwise, as in torchvision, they make every anchor that overlaps no box
    foreground. Boxes ``[B, G, 4]`` are padded: ``gt_counts[b]`` of image ``b``'s are boxes.
    """
    if low_threshold > high_threshold:
        raise ValueError(
            f"match_anchors: expected low_threshold <= high_threshold, got {low_threshold} > {high_threshold}"
        )
    anchor_boxes = anchors.boxes() if isinstance(anchors, AnchorGrid) else anchors
    matches = anchor_boxes.new_full((len(gt_boxes), len(anchor_boxes)), -1, dtype=torch.int64)
    for image, boxes in enumerate(image_targets(gt_boxes, gt_counts)):
        _check_boxes(boxes, image)
        if len(boxes) == 0 or len(anchor_boxes) == 0:
            continue
        dtype = compute_dtype(boxes, anchor_boxes)
        iou = box_iou(boxes.to(dtype), anchor_boxes.to(dtype))
        best_iou, best_box = iou.max(dim=0)
        foreground = best_iou >= high_threshold
        if allow_low_quality_matches:
            top = iou.max(dim=1, keepdim=True).values
            restored = iou == top if match_zero_iou else (iou == top) & (top > 0)
            foreground |= restored.any(dim=0)
        matches[image, best_iou >= low_threshold] = -2
        matches[image, foreground] = best_box[foreground]
    return matches


def _check_boxes(boxes: Tensor, image: int) -> None:
    valid = torch.isfinite(boxes).all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if not valid.all():
        row = int((~valid).nonzero()[0])
        raise ValueError(
            "match_anchors: expected finite boxes with x2 > x1 and y2 > y1, "
            f"got {boxes[row].tolist()} in image {image}, row {row}"
        )
