"""Matching and the loss of a whole head under transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet_fast._checks.head import check_retinanet_loss, is_padded
from retinanet_fast._transforms.batch import one_by_one, vmap_rule
from retinanet_fast._transforms.decompose import decomposition
from retinanet_fast.reference.retinanet_loss import losses_of_matches
from retinanet_fast.structures import AnchorGrid

_match_anchors = torch.ops.retinanet_fast.match_anchors.default


@decomposition("retinanet_loss")
def retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
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
    allow_low_quality_matches: bool,
    match_zero_iou: bool,
) -> tuple[Tensor, Tensor]:
    check_retinanet_loss(
        cls_logits,
        bbox_regression,
        anchors,
        strides,
        grid_sizes,
        gt_boxes,
        gt_labels,
        gt_counts,
        alpha,
        gamma,
        box_loss,
        smooth_l1_beta,
        box_weights,
        high_threshold,
        low_threshold,
    )
    matches = _match_anchors(
        anchors,
        strides,
        grid_sizes,
        gt_boxes,
        gt_counts,
        high_threshold,
        low_threshold,
        allow_low_quality_matches,
        match_zero_iou,
    )
    if is_padded(gt_boxes):
        boxes, labels = gt_boxes[0], gt_labels[0]
        if gt_counts is not None:  # no anchor has a row of padding, whose labels may be anything
            labels = torch.where(
                torch.arange(labels.shape[1], device=labels.device) < gt_counts[:, None], labels, 0
            )
        gt_boxes, gt_labels = boxes.unbind(), labels.unbind()
    losses = losses_of_matches(
        cls_logits,
        bbox_regression,
        anchors if anchors.dim() == 2 else _grid(anchors, strides, grid_sizes).boxes(),
        matches,
        gt_boxes,
        gt_labels,
        alpha=alpha,
        gamma=gamma,
        box_loss=box_loss,
        smooth_l1_beta=smooth_l1_beta,
        box_weights=box_weights,
    )
    return losses["classification"], losses["bbox_regression"]


def _grid(base_anchors: Tensor, strides: Sequence[int], grid_sizes: Sequence[int]) -> AnchorGrid:
    def pairs(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
        return tuple(zip(numbers[::2], numbers[1::2], strict=True))

    return AnchorGrid(base_anchors, pairs(strides), pairs(grid_sizes))


@vmap_rule("match_anchors")
def _match_anchors_rule(
    info: Any,
    in_dims: Sequence[Any],
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    gt_boxes: Sequence[Tensor],
    gt_counts: Tensor | None,
    *options: float,
) -> tuple[Tensor, int]:
    """What is batched over boxes alone is more images of one call."""
    size = info.batch_size
    if in_dims[0] is not None:
        arguments = (anchors, strides, grid_sizes, gt_boxes, gt_counts, *options)
        return one_by_one(_match_anchors, size, in_dims, arguments)

    def batched(targets: Tensor, dim: int | None) -> Tensor:
        return targets.expand(size, *targets.shape) if dim is None else targets.movedim(dim, 0)

    lists = [batched(boxes, dim) for boxes, dim in zip(gt_boxes, in_dims[3], strict=True)]
    padded = len(lists) == 1 and lists[0].dim() == 4
    images = lists[0].shape[1] if padded else len(lists)
    every = [lists[0].flatten(0, 1)] if padded else [boxes[call] for call in range(size) for boxes in lists]
    counts = None if gt_counts is None else batched(gt_counts, in_dims[4]).flatten()
    matches = _match_anchors(anchors, strides, grid_sizes, every, counts, *options)
    return matches.unflatten(0, (size, images)), 0
