"""detectron2's assignment of ground truth to anchors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat.detectron2.boxes import pairwise_iou
from retinanet_fast.compat.detectron2.structures import concatenated, tensor_of


class Matcher:
    """``detectron2.modeling.matcher.Matcher``: from a matrix of qualities in plain PyTorch, as the original, or, with
    :meth:`match_boxes`, from the boxes themselves without a matrix.

    ``thresholds`` cut the best quality of a prediction into levels, and ``labels`` has one of 0 (background), -1
    (ignored) and 1 (foreground) for each: RetinaNet's are ``Matcher([0.4, 0.5], [0, -1, 1],
    allow_low_quality_matches=True)``. Afterwards ``self.thresholds`` has -inf in front and inf at the end.
    """

    def __init__(
        self, thresholds: list[float], labels: list[int], allow_low_quality_matches: bool = False
    ) -> None:
        if not thresholds or thresholds[0] <= 0 or list(thresholds) != sorted(thresholds):
            raise ValueError(f"Matcher: expected positive thresholds in ascending order, got {thresholds}")
        if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
            raise ValueError(
                f"Matcher: expected {len(thresholds) + 1} labels of -1, 0 and 1 "
                f"for {len(thresholds)} thresholds, got {labels}"
            )
        self.thresholds = [-math.inf, *thresholds, math.inf]
        self.labels = labels
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> tuple[Tensor, Tensor]:
        """Args:
            match_quality_matrix: ``[M, N]``, ground truth by predictions, not negative.

        Returns:
            ``(matches, match_labels)``: ``[N]`` int64, the best ground truth of each prediction, the first on ties,
            whatever its label; and ``[N]`` int8 labels.
        """
        quality = match_quality_matrix
        if quality.dim() != 2:
            raise ValueError(f"Matcher: expected match_quality_matrix [M, N], got {list(quality.shape)}")
        if quality.numel() == 0:
            matches = quality.new_zeros(quality.shape[1], dtype=torch.int64)
            return matches, torch.full_like(matches, self.labels[0], dtype=torch.int8)
        best, matches = quality.max(dim=0)
        labels = torch.ones_like(matches, dtype=torch.int8)
        for label, low, high in zip(self.labels, self.thresholds[:-1], self.thresholds[1:]):
            labels[(best >= low) & (best < high)] = label
        if self.allow_low_quality_matches:
            best_of_each_gt = quality.amax(dim=1, keepdim=True)
            labels[(quality == best_of_each_gt).any(dim=0)] = 1
        return matches, labels

    def match_boxes(self, gt_boxes: Any, anchors: Any) -> tuple[Tensor, Tensor]:
        """``self(pairwise_iou(gt_boxes, anchors))`` by :func:`retinanet_fast.ops.match_anchors`: no matrix is stored.

        Both are ``Boxes`` or tensors. ``matches`` is 0 where the label is not 1.
        """
        match = match_batch(self, concatenated(anchors), [tensor_of(gt_boxes)])[0]
        labels = torch.where(match >= 0, 1, torch.where(match == -1, 0, -1)).to(torch.int8)
        return match.clamp(min=0), labels


def match_batch(matcher: Any, anchors: Tensor, gt_boxes: Sequence[Tensor]) -> Tensor:
    """``[B, R]`` int64 in the ops' convention (gt index, -1 background, -2 ignored), by a matcher of either library.

    The levels "background, foreground" and "background, ignored, foreground" are :func:`retinanet_fast.ops`'s; others,
    and matchers of another class, go through the matrix of IoUs.
    """
    labels = list(getattr(matcher, "labels", []))
    if type(matcher).__name__ == "Matcher" and labels in ([0, 1], [0, -1, 1]):
        return ops.match_anchors(
            anchors,
            gt_boxes,
            low_threshold=matcher.thresholds[1],
            high_threshold=matcher.thresholds[-2],
            allow_low_quality_matches=matcher.allow_low_quality_matches,
        )
    rows = []
    for boxes in gt_boxes:
        matches, label = matcher(pairwise_iou(boxes, anchors))
        rows.append(torch.where(label == 1, matches, torch.where(label == 0, -1, -2)))
    return torch.stack(rows)


@torch.no_grad()
def label_anchors(
    anchors: Any,
    gt_boxes: Sequence[Any],
    gt_classes: Sequence[Tensor],
    num_classes: int,
    anchor_matcher: Any = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """What ``RetinaNet.label_anchors`` returns, from tensors, by :func:`retinanet_fast.ops.match_anchors`.

    What differs: a ground-truth box without area, or not finite, is an error that names image and row (on CUDA, of the
    next call); in detectron2 its IoU is 0 with every anchor, so that every anchor that overlaps nothing is foreground.

    Args:
        anchors: ``[R, 4]``, or one tensor or ``Boxes`` per level.
        gt_boxes: one tensor ``[G_i, 4]`` or ``Boxes`` per image; ``G_i`` may be 0.
        gt_classes: their classes, ``[G_i]`` int64 in [0, K).
        num_classes: K, the label of background.
        anchor_matcher: RetinaNet's :class:`Matcher` by default.

    Returns:
        ``(gt_labels, matched_gt_boxes)``, one tensor per image: labels ``[R]`` in {-1, 0, ..., K}, with -1 ignored and
        K background; and boxes ``[R, 4]``, undefined where an anchor is not foreground.
    """
    matcher = anchor_matcher or Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True)
    tensor = concatenated(anchors)
    boxes = [tensor_of(boxes) for boxes in gt_boxes]
    if len(boxes) == 0:
        return [], []
    labels, matched = [], []
    for match, image_boxes, classes in zip(match_batch(matcher, tensor, boxes), boxes, gt_classes):
        if len(image_boxes) == 0:
            labels.append(torch.full_like(match, num_classes))
            matched.append(torch.zeros_like(tensor))
            continue
        index = match.clamp(min=0)
        image_labels = torch.where(match == -1, num_classes, classes[index])
        labels.append(torch.where(match == -2, -1, image_labels))
        matched.append(image_boxes[index])
    return labels, matched
