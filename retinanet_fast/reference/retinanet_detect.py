from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import level_rows
from retinanet_fast.reference.batched_nms import batched_nms
from retinanet_fast.reference.decode_boxes import decode_boxes
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
    rows = level_rows(cls_logits, bbox_regression)
    anchor_boxes = anchors.boxes() if isinstance(anchors, AnchorGrid) else anchors
    level_anchors = anchor_boxes.split([logits.shape[1] for logits, _ in rows])
    sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes

    batch = cls_logits[0].shape[0]
    dtype, device = rows[0][0].dtype, rows[0][0].device
    detections = Detections(
        boxes=torch.zeros(batch, detections_per_img, 4, dtype=dtype, device=device),
        scores=torch.zeros(batch, detections_per_img, dtype=dtype, device=device),
        labels=torch.full((batch, detections_per_img), -1, device=device),
        counts=torch.zeros(batch, dtype=torch.int64, device=device),
    )
    for image in range(batch):
        candidates = []
        for (logits, deltas), level_boxes in zip(rows, level_anchors, strict=True):
            scores, anchor, label = _select(logits[image], score_thresh, topk_candidates)
            height, width = sizes[image]
            boxes = decode_boxes(
                deltas[image, anchor], level_boxes[anchor], box_weights, image_size=(int(height), int(width))
            )
            candidates.append((boxes, scores, label))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        keep = batched_nms(boxes, scores, labels, nms_thresh)[:detections_per_img]
        count = len(keep)
        detections.boxes[image, :count] = boxes[keep]
        detections.scores[image, :count] = scores[keep]
        detections.labels[image, :count] = labels[keep]
        detections.counts[image] = count
    return detections


def _select(logits: Tensor, score_thresh: float, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, anchor indices and labels of one image's best candidates on one level."""
    num_classes = logits.shape[1]
    scores = logits.sigmoid().flatten()
    above = (scores > score_thresh).nonzero()[:, 0]
    order = scores[above].sort(descending=True, stable=True).indices[:topk]
    best = above[order]
    return scores[best], best // num_classes, best % num_classes
