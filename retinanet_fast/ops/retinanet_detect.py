"""From the head's outputs to detections."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.ops.batched_nms import batched_nms
from retinanet_fast.ops.decode_boxes import decode_boxes
from retinanet_fast.structures import AnchorGrid, Detections


def retinanet_detect(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor | AnchorGrid,
    image_sizes: Sequence[tuple[int, int]] | Tensor,
    *,
    score_thresh: float = 0.05,
    topk_candidates: int = 1000,
    nms_thresh: float = 0.5,
    detections_per_img: int = 300,
    box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
) -> Detections:
    """The detections of a batch from the head's level outputs, at fixed size.

    Per image and level the ``topk_candidates`` best (anchor, class) pairs with sigmoid score >
    ``score_thresh`` (equal scores: lower index first) are decoded and clipped to the image; class-wise NMS
    over all levels keeps the best ``detections_per_img``. ``image_sizes`` are (height, width) pairs.
    """
    anchor_boxes = anchors.boxes() if isinstance(anchors, AnchorGrid) else anchors
    sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
    batch, device = cls_logits[0].shape[0], cls_logits[0].device
    detections = Detections(
        boxes=torch.zeros(batch, detections_per_img, 4, device=device),
        scores=torch.zeros(batch, detections_per_img, device=device),
        labels=torch.full((batch, detections_per_img), -1, device=device),
        counts=torch.zeros(batch, dtype=torch.int64, device=device),
    )
    for image in range(batch):
        parts, first_anchor = [], 0
        height, width = (int(side) for side in sizes[image])
        for logits, deltas in zip(cls_logits, bbox_regression, strict=True):
            shapes = deltas.shape[1] // 4
            rows = deltas[image].reshape(shapes, 4, -1).permute(2, 0, 1).reshape(-1, 4).float()
            classes = logits.shape[1] // shapes
            scores = logits[image].reshape(shapes, classes, -1).permute(2, 0, 1).flatten().float().sigmoid()
            above = (scores > score_thresh).nonzero()[:, 0]
            best = above[scores[above].sort(descending=True, stable=True).indices[:topk_candidates]]
            anchor = best // classes
            boxes = decode_boxes(
                rows[anchor], anchor_boxes[first_anchor + anchor], box_weights, image_size=(height, width)
            )
            parts.append((boxes, scores[best], best % classes))
            first_anchor += len(rows)
        boxes, scores, labels = (torch.cat(part) for part in zip(*parts, strict=True))
        keep = batched_nms(boxes, scores, labels, nms_thresh)[:detections_per_img]
        count = len(keep)
        detections.boxes[image, :count] = boxes[keep]
        detections.scores[image, :count] = scores[keep]
        detections.labels[image, :count] = labels[keep]
        detections.counts[image] = count
    return detections
