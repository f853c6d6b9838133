from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import flatten_level
from retinanet_fast.reference.batched_nms import batched_nms
from retinanet_fast.reference.box_iou import box_iou
from retinanet_fast.reference.decode_boxes import decode_boxes
from retinanet_fast.structures import AnchorGrid, Detections


def retinanet_detect(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor | AnchorGrid,
    image_sizes: Sequence[tuple[int, int]] | Tensor,
    *,
    score_thresh: float | Tensor = 0.05,
    topk_candidates: int = 1000,
    nms_thresh: float = 0.5,
    detections_per_img: int = 300,
    box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    soft_nms: str | None = None,
    soft_nms_sigma: float = 0.5,
) -> Detections:
    """The detections of a batch from the head's level outputs, at fixed size.

    For each image and level, the ``topk_candidates`` best (anchor, class) pairs with sigmoid score > ``score_thresh``
    (equal scores: lower index first) are decoded and clipped to the image. Among those of all levels, NMS within each
    class keeps the best ``detections_per_img``. ``image_sizes`` are (height, width) pairs. Scores and boxes are
    computed in float64 from float32 inputs and rounded once to float32.
    """
    shapes = bbox_regression[0].shape[1] // 4
    classes = cls_logits[0].shape[1] // shapes
    logits = [flatten_level(level.float().double(), classes) for level in cls_logits]
    deltas = [flatten_level(level.float().double(), 4) for level in bbox_regression]
    anchor_boxes = (anchors.boxes() if isinstance(anchors, AnchorGrid) else anchors).double()
    level_anchors = anchor_boxes.split([level.shape[1] for level in logits])
    sizes = image_sizes.tolist() if isinstance(image_sizes, Tensor) else image_sizes
    batch, device = logits[0].shape[0], logits[0].device
    thresholds = torch.as_tensor(score_thresh, dtype=torch.float32, device=device).expand(classes)

    detections = Detections(
        boxes=torch.zeros(batch, detections_per_img, 4, device=device),
        scores=torch.zeros(batch, detections_per_img, device=device),
        labels=torch.full((batch, detections_per_img), -1, device=device),
        counts=torch.zeros(batch, dtype=torch.int64, device=device),
    )
    for image, (height, width) in enumerate(sizes):
        candidates = []
        for level_logits, level_deltas, level_boxes in zip(logits, deltas, level_anchors, strict=True):
            scores, anchor, label = _select(level_logits[image], thresholds, topk_candidates)
            boxes = decode_boxes(
                level_deltas[image, anchor],
                level_boxes[anchor],
                box_weights,
                image_size=(int(height), int(width)),
            )
            candidates.append((boxes.float(), scores, label))
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*candidates, strict=True))
        if soft_nms is None:
            keep = batched_nms(boxes, scores, labels, nms_thresh)[:detections_per_img]
        else:
            keep, scores = _soft_nms(
                boxes, scores, labels, thresholds, nms_thresh, detections_per_img, soft_nms, soft_nms_sigma
            )
        count = len(keep)
        detections.boxes[image, :count] = boxes[keep]
        detections.scores[image, :count] = scores[keep]
        detections.labels[image, :count] = labels[keep]
        detections.counts[image] = count
    return detections


def _select(logits: Tensor, thresholds: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, anchor indices and labels of one image's best candidates on one level."""
    num_classes = logits.shape[1]
    scores = logits.sigmoid().float()
    above = (scores > thresholds).flatten().nonzero()[:, 0]
    scores = scores.flatten()
    order = scores[above].sort(descending=True, stable=True).indices[:topk]
    best = above[order]
    return scores[best], best // num_classes, best % num_classes


def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    thresholds: Tensor,
    nms_thresh: float,
    limit: int,
    method: str,
    sigma: float,
) -> tuple[Tensor, Tensor]:
    """Indices of the detections, best first, and all scores as they were lowered (gone: -inf)."""
    order = scores.sort(descending=True, stable=True).indices
    scores, current = scores.clone(), scores.clone()
    keep: list[Tensor] = []
    while len(keep) < limit and len(order):
        best = order[current[order].argmax()]  # the first of equals
        if current[best] == -torch.inf:
            break
        keep.append(best)
        scores[best] = current[best]
        current[best] = -torch.inf
        iou = box_iou(boxes[best][None], boxes)[0]
        if method == "linear":
            factor = torch.where(iou.double() > nms_thresh, 1 - iou, 1.0)
        else:
            factor = torch.where(iou > 0, torch.exp(-iou.double().square() / sigma).float(), 1.0)
        lowered = current * factor
        lowered = torch.where(lowered > thresholds[labels], lowered, -torch.inf)
        current = torch.where(labels == labels[best], lowered, current)
    return torch.stack(keep) if keep else order[:0], scores
