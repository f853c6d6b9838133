"""The checks of the ops on the outputs of a head: matching, the loss and detection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast._checks.arguments import (
    IntLike,
    check_box_weights,
    check_floating,
    check_focal,
    check_integer,
    check_labels,
    check_same_device,
    check_shape,
    check_thresholds,
    check_type,
    check_value,
    shape,
)
from retinanet_fast._checks.levels import check_anchors, check_anchors_of_head, check_levels


def is_padded(gt_boxes: Sequence[Tensor]) -> bool:
    """Whether the one tensor of the list is ``[B, G, 4]``."""
    return len(gt_boxes) == 1 and gt_boxes[0].dim() == 3


def check_gt_boxes(op: str, gt_boxes: Sequence[Tensor], gt_counts: Tensor | None, like: Tensor) -> None:
    padded = is_padded(gt_boxes)
    for image, boxes in enumerate(gt_boxes):
        message = f"{op}: expected gt_boxes[{image}] [G, 4], got {shape(boxes)}"
        check_value(padded or boxes.dim() == 2, lambda message=message: message)  # type: ignore[misc]
        check_value(boxes.shape[-1] == 4, lambda message=message: message)  # type: ignore[misc]
        check_same_device(op, f"gt_boxes[{image}]", boxes, like)
        check_floating(op, "gt_boxes", boxes)
    if gt_counts is None:
        return
    check_value(
        padded, lambda: f"{op}: expected gt_counts beside gt_boxes [B, G, 4] alone, got them beside a list"
    )
    images, found = gt_boxes[0].shape[0], shape(gt_counts)
    check_shape(gt_counts, (images,), lambda: f"{op}: expected gt_counts [{images}], got {found}")
    check_labels(op, "gt_counts", gt_counts)
    check_same_device(op, "gt_counts", gt_counts, like)


def _check_gt_labels(op: str, gt_boxes: Sequence[Tensor], gt_labels: Sequence[Tensor], like: Tensor) -> None:
    images, padded = like.shape[0], is_padded(gt_boxes)
    found = [
        targets[0].shape[0] if padded and len(targets) == 1 and targets[0].dim() > 0 else len(targets)
        for targets in (gt_boxes, gt_labels)
    ]
    for count in found:
        check_value(
            images == count,
            lambda: (
                f"{op}: expected gt_boxes and gt_labels of {images} images, got {found[0]} and {found[1]}"
            ),
        )
    for image, (boxes, labels) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
        check_labels(op, "gt_labels", labels)
        message = (
            f"{op}: expected a label for each box of {'all images' if padded else f'image {image}'}, "
            f"got gt_labels {shape(labels)} and gt_boxes {shape(boxes)}"
        )
        check_value(padded or boxes.dim() == 2, lambda message=message: message)  # type: ignore[misc]
        check_shape(labels, boxes.shape[:-1], lambda message=message: message)  # type: ignore[misc]
        check_same_device(op, "gt_labels", labels, like)


def check_match_anchors(
    anchors: Tensor,
    strides: Sequence[IntLike],
    grid_sizes: Sequence[IntLike],
    gt_boxes: Sequence[Tensor],
    gt_counts: Tensor | None,
    high_threshold: float,
    low_threshold: float,
) -> None:
    op = "match_anchors"
    check_thresholds(op, high_threshold, low_threshold)
    check_anchors(op, anchors, strides, grid_sizes, anchors)
    check_gt_boxes(op, gt_boxes, gt_counts, anchors)


def check_retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[IntLike],
    grid_sizes: Sequence[IntLike],
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    gt_counts: Tensor | None,
    alpha: float,
    gamma: float,
    box_loss: str,
    smooth_l1_beta: float,
    box_weights: Sequence[float],
    high_threshold: float,
    low_threshold: float,
    *_: bool,
) -> None:
    op = "retinanet_loss"
    check_focal(op, alpha, gamma)
    check_thresholds(op, high_threshold, low_threshold)
    check_box_weights(op, "box_weights", box_weights)
    check_value(smooth_l1_beta >= 0, lambda: f"{op}: expected smooth_l1_beta >= 0, got {smooth_l1_beta}")
    check_levels(op, cls_logits, bbox_regression)
    dtypes = cls_logits[0].dtype, bbox_regression[0].dtype
    check_type(
        (dtypes[0] == torch.float64) == (dtypes[1] == torch.float64),
        lambda: (
            f"{op}: expected float64 bbox_regression beside float64 cls_logits and no other, "
            f"got {dtypes[1]} beside {dtypes[0]}"
        ),
    )
    _check_gt_labels(op, gt_boxes, gt_labels, cls_logits[0])
    check_anchors(op, anchors, strides, grid_sizes, cls_logits[0])
    check_anchors_of_head(op, anchors, grid_sizes, cls_logits, bbox_regression)
    check_value(
        box_loss in ("l1", "smooth_l1", "giou"),
        lambda: f"{op}: expected box_loss 'l1', 'smooth_l1' or 'giou', got {box_loss!r}",
    )
    check_gt_boxes(op, gt_boxes, gt_counts, cls_logits[0])


def check_retinanet_detect(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[IntLike],
    grid_sizes: Sequence[IntLike],
    image_sizes: Tensor,
    class_thresh: Tensor | None,
    topk_candidates: int,
    detections_per_img: int,
    box_weights: Sequence[float],
    soft_nms: str,
    soft_nms_sigma: float,
) -> None:
    op = "retinanet_detect"
    check_levels(op, cls_logits, bbox_regression)
    check_anchors(op, anchors, strides, grid_sizes, cls_logits[0])
    check_anchors_of_head(op, anchors, grid_sizes, cls_logits, bbox_regression)
    check_box_weights(op, "box_weights", box_weights)
    check_value(
        soft_nms in ("", "linear", "gaussian"),
        lambda: f"{op}: expected soft_nms None, 'linear' or 'gaussian', got {soft_nms!r}",
    )
    for name, number in (("topk_candidates", topk_candidates), ("detections_per_img", detections_per_img)):
        if number < 1:
            raise ValueError(f"{op}: expected {name} >= 1, got {number}")
    check_value(soft_nms_sigma > 0, lambda: f"{op}: expected soft_nms_sigma > 0, got {soft_nms_sigma}")
    batch = cls_logits[0].shape[0]
    check_shape(
        image_sizes,
        (batch, 2),
        lambda: f"{op}: expected image_sizes [{batch}, 2], got {shape(image_sizes)}",
    )
    check_integer(op, "image_sizes", image_sizes)
    if image_sizes.device.type != "cpu":
        check_same_device(op, "image_sizes", image_sizes, cls_logits[0])
    if class_thresh is None:
        return
    classes = 4 * cls_logits[0].shape[1] // bbox_regression[0].shape[1]
    found = shape(class_thresh)
    check_shape(
        class_thresh,
        (classes,),
        lambda: f"{op}: expected score_thresh, a tensor, [{classes}], got {found}",
    )
    check_same_device(op, "score_thresh", class_thresh, cls_logits[0])
