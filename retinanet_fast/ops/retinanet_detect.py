"""Detections from the head's outputs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast._checks.head import check_retinanet_detect
from retinanet_fast.ops.match_anchors import grid_arguments
from retinanet_fast.structures import AnchorGrid, Detections, size_tensor


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
    """The detections of a batch from the head's level outputs, at fixed size and without a host synchronisation.

    For each image and level, the ``topk_candidates`` best (anchor, class) pairs with ``sigmoid(logit) > score_thresh``
    are decoded and clipped to the image (RetinaNet, https://arxiv.org/abs/1708.02002, section 4.1). Among those of all
    levels, :func:`batched_nms` keeps the best ``detections_per_img``.

    Logits and deltas are read as float32 where they lie: NCHW, channels_last and strided slices are not copied. Scores
    and boxes are computed in float64 and rounded once to float32, so that the CPU, CUDA and the eager twin agree to
    the bit. Candidates are ordered by descending score, equal scores by level and then by the flattened index
    ``((y * W + x) * K + k) * C + class``. A NaN logit is no candidate. On the CPU the worst distributions of scores
    (all above the threshold, all equal, or each better than the one before) take at most 8 times as long as the scores
    of a model in training (``python -m benchmarks --filter retinanet_detect``).

    With ``soft_nms`` (https://arxiv.org/abs/1704.04503) no box is suppressed outright: each detection, best first,
    multiplies the scores of the other candidates of its class by ``1 - IoU`` where ``IoU > nms_thresh`` ("linear") or
    by ``exp(-IoU^2 / soft_nms_sigma)`` ("gaussian"), and candidates no longer above ``score_thresh`` are dropped.

    Args:
        cls_logits: one tensor ``[B, K * C, H, W]`` per level, channel ``k * C + class``; all of one floating dtype.
        bbox_regression: one tensor ``[B, K * 4, H, W]`` per level, channel ``k * 4 + j`` of ``(dx, dy, dw, dh)``.
        anchors: an :class:`AnchorGrid`, or boxes ``[A, 4]`` ordered by level, y, x, k; xyxy in pixels.
        image_sizes: (height, width) pairs, or an integer tensor ``[B, 2]`` on any device. In a CUDA graph, the values
            of a tensor on the device are read at each replay.
        score_thresh: a number, rounded to float32, or a tensor ``[C]`` with one per class.
        topk_candidates: at least 1.
        nms_thresh: as in :func:`nms`.
        detections_per_img: D, at least 1.
        box_weights: ``weights`` of :func:`decode_boxes`.
        soft_nms: ``None``, ``"linear"`` or ``"gaussian"``.
        soft_nms_sigma: sigma of "gaussian", greater than 0.

    Returns:
        :class:`Detections` of float32 boxes ``[B, D, 4]`` and scores ``[B, D]``, int64 labels ``[B, D]`` in ``[0, C)``
        and counts ``[B]``. After an image's count, boxes and scores are 0 and labels -1. Not differentiable.
        Under ``vmap`` the op is called for one index after the other; to derivatives its results are constants.

    Raises:
        ValueError: shapes, devices or settings that do not match.
        TypeError: outputs that are not floating point or of mixed dtypes, or image sizes that are not integers.
    """
    boxes, *grid = grid_arguments(anchors)
    sizes = image_sizes if isinstance(image_sizes, Tensor) else size_tensor(image_sizes, boxes.device)
    per_class = isinstance(score_thresh, Tensor)
    return Detections(
        *torch.ops.retinanet_fast.retinanet_detect(
            cls_logits,
            bbox_regression,
            boxes,
            *grid,
            sizes,
            0.0 if per_class else score_thresh,
            score_thresh if per_class else None,
            topk_candidates,
            nms_thresh,
            detections_per_img,
            box_weights,
            soft_nms or "",
            soft_nms_sigma,
        )
    )


@torch.library.register_fake("retinanet_fast::retinanet_detect")
def _(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    image_sizes: Tensor,
    score_thresh: float,
    class_thresh: Tensor | None,
    topk_candidates: int,
    nms_thresh: float,
    detections_per_img: int,
    box_weights: Sequence[float],
    soft_nms: str,
    soft_nms_sigma: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    check_retinanet_detect(
        cls_logits,
        bbox_regression,
        anchors,
        strides,
        grid_sizes,
        image_sizes,
        class_thresh,
        topk_candidates,
        detections_per_img,
        box_weights,
        soft_nms,
        soft_nms_sigma,
    )
    first, limit = cls_logits[0], detections_per_img
    batch = first.shape[0]
    return (
        first.new_empty(batch, limit, 4, dtype=torch.float32),
        first.new_empty(batch, limit, dtype=torch.float32),
        first.new_empty(batch, limit, dtype=torch.int64),
        first.new_empty(batch, dtype=torch.int64),
    )
