from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet_fast.reference._common import check_labels, image_targets, level_rows
from retinanet_fast.reference.decode_boxes import decode_boxes
from retinanet_fast.reference.encode_boxes import encode_boxes
from retinanet_fast.reference.match_anchors import match_anchors
from retinanet_fast.reference.sigmoid_focal_loss import sigmoid_focal_loss
from retinanet_fast.structures import AnchorGrid


def retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor | AnchorGrid,
    gt_boxes: Sequence[Tensor] | Tensor,
    gt_labels: Sequence[Tensor] | Tensor,
    *,
    gt_counts: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_loss: str = "l1",
    smooth_l1_beta: float = 1 / 9,
    box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality_matches: bool = True,
    match_zero_iou: bool = True,
) -> dict[str, Tensor]:
    """RetinaNet's two training losses from the head's level outputs.

    ``cls_logits[l]`` is ``[B, K * C, H, W]`` and ``bbox_regression[l]`` ``[B, K * 4, H, W]``. An image's
    focal loss is the sum over its anchors that are not ignored. Its box loss is the sum over its foreground anchors of
    L1 or smooth L1 of the encoded deltas, or of GIoU of the decoded boxes. Both are divided by the number of its
    foreground anchors (at least 1); the batch's losses are the means over images, in at least float32.
    """
    gt_boxes, gt_labels = (image_targets(targets, gt_counts) for targets in (gt_boxes, gt_labels))
    matches = match_anchors(
        anchors,
        gt_boxes,
        high_threshold=high_threshold,
        low_threshold=low_threshold,
        allow_low_quality_matches=allow_low_quality_matches,
        match_zero_iou=match_zero_iou,
    )
    anchor_boxes = anchors.boxes() if isinstance(anchors, AnchorGrid) else anchors
    return losses_of_matches(
        cls_logits,
        bbox_regression,
        anchor_boxes,
        matches,
        gt_boxes,
        gt_labels,
        alpha=alpha,
        gamma=gamma,
        box_loss=box_loss,
        smooth_l1_beta=smooth_l1_beta,
        box_weights=box_weights,
    )


def losses_of_matches(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    matches: Tensor,
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    *,
    alpha: float,
    gamma: float,
    box_loss: str,
    smooth_l1_beta: float,
    box_weights: Sequence[float],
) -> dict[str, Tensor]:
    """The losses with ``matches`` ``[B, A]`` of anchors ``[A, 4]``. No step depends on values: it can be batched."""
    rows = level_rows(cls_logits, bbox_regression)
    logits = torch.cat([level_logits for level_logits, _ in rows], dim=1)
    deltas = torch.cat([level_deltas for _, level_deltas in rows], dim=1)
    classification, regression = logits.new_zeros(()), deltas.new_zeros(())
    for image, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
        check_labels("retinanet_loss", labels, 0, logits.shape[-1])
        match = matches[image]
        foreground = match >= 0
        divisor = foreground.sum().clamp_min(1)
        row = match.clamp_min(-1)  # the last for an anchor without a box: a label and a box are added for it

        targets = torch.where(foreground, F.pad(labels, (0, 1))[row], match)
        focal = sigmoid_focal_loss(logits[image], targets, alpha, gamma, reduction="sum")
        classification = classification + focal / divisor

        box = _box_loss(
            deltas[image].masked_fill(~foreground[:, None], 0),
            anchors,
            torch.cat([boxes.to(deltas.dtype), deltas.new_tensor([[0, 0, 1, 1]])])[row],
            box_loss,
            smooth_l1_beta,
            box_weights,
        )
        regression = regression + box.masked_fill(~foreground, 0).sum() / divisor
    batch = max(1, len(gt_boxes))
    return {"classification": classification / batch, "bbox_regression": regression / batch}


def _box_loss(
    deltas: Tensor, anchors: Tensor, boxes: Tensor, kind: str, beta: float, weights: Sequence[float]
) -> Tensor:
    if kind == "l1":
        return (deltas - encode_boxes(boxes, anchors, weights)).abs().sum(dim=1)
    if kind == "smooth_l1":
        codes = encode_boxes(boxes, anchors, weights)
        return F.smooth_l1_loss(deltas, codes, reduction="none", beta=beta).sum(dim=1)
    if kind == "giou":
        return _giou_loss(decode_boxes(deltas, anchors, weights), boxes)
    raise ValueError(f"retinanet_loss: expected box_loss 'l1', 'smooth_l1' or 'giou', got {kind!r}")


def _giou_loss(boxes: Tensor, targets: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` of each row's pair (Rezatofighi et al. 2019, https://arxiv.org/abs/1902.09630)."""
    inner = (
        torch.minimum(boxes[:, 2:], targets[:, 2:]) - torch.maximum(boxes[:, :2], targets[:, :2])
    ).clamp_min(0)
    outer = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    inter, hull = inner.prod(dim=1), outer.prod(dim=1)
    union = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (targets[:, 2:] - targets[:, :2]).prod(dim=1) - inter
    return 1 - inter / (union + eps) + (hull - union) / (hull + eps)
