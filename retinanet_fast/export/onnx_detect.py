"""``ops.retinanet_detect`` in ONNX's standard operators."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxscript import opset18 as op

from retinanet_fast.export.onnx_boxes import decode, limits_of
from retinanet_fast.export.onnx_nms import below_as_float32
from retinanet_fast.export.onnx_values import (
    DOUBLE,
    FLOAT,
    INT64,
    Value,
    cast,
    constant,
    integers,
    reshape,
    take_rows,
    unsqueeze,
)

__all__ = ["retinanet_detect"]

MAX_LOG_SCALE = math.log(1000 / 16)


def retinanet_detect(
    cls_logits: Sequence[Value],
    bbox_regression: Sequence[Value],
    anchors: Value,
    strides: Sequence[int | Value],
    grid_sizes: Sequence[int | Value],
    image_sizes: Value,
    score_thresh: float,
    class_thresh: Value | None,
    topk_candidates: int,
    nms_thresh: float,
    detections_per_img: int,
    box_weights: Sequence[float],
    soft_nms: str,
    soft_nms_sigma: float,
) -> tuple[Value, Value, Value, Value]:
    """Boxes, scores, labels and counts, with the arguments of the op's schema.

    Candidates are chosen by their logits, whose order is that of the scores, and then ordered as in the op: equal
    scores by level and index. Where candidates of different logits round to one score right at ``topk_candidates``,
    the op takes the one of lower index, this the one of higher logit.

    Raises:
        NotImplementedError: soft NMS, for which ONNX has no operator.
        ValueError: thresholds that ONNX's ``NonMaxSuppression`` does not take.
    """
    if soft_nms:
        raise NotImplementedError(f"retinanet_detect: expected soft_nms None for ONNX, got {soft_nms!r}")
    if class_thresh is None and not score_thresh >= 0:
        raise ValueError(f"retinanet_detect: expected score_thresh >= 0 for ONNX, got {score_thresh}")
    num_anchors = bbox_regression[0].shape[1] // 4
    num_classes = cls_logits[0].shape[1] // num_anchors
    threshold = constant(score_thresh, FLOAT) if class_thresh is None else cast(class_thresh, FLOAT)

    candidates, first_anchor = [], constant([0], INT64)
    for level, (logits, deltas) in enumerate(zip(cls_logits, bbox_regression)):
        scores, index = _best(_rows(logits), topk_candidates)
        labels = op.Mod(index, constant(num_classes, INT64))
        anchor = op.Div(index, constant(num_classes, INT64))
        least = threshold if class_thresh is None else op.Gather(threshold, labels)
        scores = op.Where(op.Greater(scores, least), scores, constant(0.0, FLOAT))
        rows = reshape(_rows(deltas), (0, -1, 4))
        if len(strides):
            place = slice(2 * level, 2 * level + 2)
            base = op.Gather(anchors, constant(level, INT64), axis=0)
            boxes = _grid_boxes(base, num_anchors, strides[place], grid_sizes[place], anchor)
        else:
            boxes = op.Gather(anchors, op.Add(anchor, first_anchor), axis=0)
            first_anchor = op.Add(first_anchor, op.Shape(rows, start=1, end=2))
        boxes = decode(cast(take_rows(rows, anchor), DOUBLE), cast(boxes, DOUBLE), box_weights, MAX_LOG_SCALE)
        candidates.append((boxes, scores, labels))
    boxes, scores, labels = (op.Concat(*parts, axis=1) for parts in zip(*candidates))
    limits = unsqueeze(limits_of(image_sizes), 1)
    boxes = cast(op.Max(op.Min(boxes, limits), constant(0.0, DOUBLE)), FLOAT)
    return _suppress(boxes, scores, labels, num_classes, nms_thresh, detections_per_img)


def _rows(output: Value) -> Value:
    """A level ``[B, K * C, H, W]`` as float32 ``[B, H * W * K * C]``."""
    return reshape(op.Transpose(cast(output, FLOAT), perm=[0, 2, 3, 1]), (0, -1))


def _best(logits: Value, limit: int) -> tuple[Value, Value]:
    """Scores and flattened indices ``[B, k]`` of a level's best candidates, equal scores by index."""
    logits = op.Where(op.IsNaN(logits), constant(-math.inf, FLOAT), logits)
    count = op.Min(constant([limit], INT64), op.Shape(logits, start=1))
    best, index = op.TopK(logits, count, axis=1)
    # Different logits may round to one score: sorted by index first, TopK keeps that order among equals.
    index, order = op.TopK(index, count, axis=1, largest=0)
    best = op.GatherElements(best, order, axis=1)
    scores, order = op.TopK(cast(op.Sigmoid(cast(best, DOUBLE)), FLOAT), count, axis=1)
    return scores, op.GatherElements(index, order, axis=1)


def _grid_boxes(
    base: Value,
    num_anchors: int,
    stride: Sequence[int | Value],
    grid_size: Sequence[int | Value],
    anchor: Value,
) -> Value:
    """The anchors ``[B, k, 4]`` of a grid's level, whose base anchors are ``[K, 4]``."""
    count, width = constant(num_anchors, INT64), integers(grid_size[1])
    cell = op.Div(anchor, count)
    y = op.Mul(op.Div(cell, width), integers(stride[0]))
    x = op.Mul(op.Mod(cell, width), integers(stride[1]))
    corner = [unsqueeze(cast(value, FLOAT), -1) for value in (x, y)]
    return op.Add(op.Gather(base, op.Mod(anchor, count), axis=0), op.Concat(*corner, *corner, axis=-1))


def _suppress(
    boxes: Value, scores: Value, labels: Value, num_classes: int, nms_thresh: float, limit: int
) -> tuple[Value, Value, Value, Value]:
    """The best ``limit`` of each image's candidates ``[B, N]`` after NMS within each class; score 0: no candidate."""
    zero, one = constant(0.0, FLOAT), constant(1, INT64)
    classes = constant([[c] for c in range(num_classes)], INT64)
    class_scores = op.Where(op.Equal(unsqueeze(labels, 1), classes), unsqueeze(scores, 1), zero)
    # No class can have more than `limit` of the best `limit`.
    chosen = op.NonMaxSuppression(
        boxes, class_scores, integers(limit), below_as_float32(nms_thresh), constant([0.0], FLOAT)
    )
    place = op.Gather(chosen, constant([0, 2], INT64), axis=1)  # image and candidate; between them the class
    kept = op.ScatterND(op.Mul(scores, zero), place, op.GatherND(scores, place))
    padding = op.Expand(zero, op.Concat(op.Shape(kept, end=1), integers(limit), axis=0))
    scores, order = op.TopK(op.Concat(kept, padding, axis=1), integers(limit), axis=1)
    order = op.Min(order, op.Sub(op.Shape(kept, start=1), one))
    exists = op.Greater(scores, zero)
    return (
        op.Where(unsqueeze(exists, -1), take_rows(boxes, order), zero),
        scores,
        op.Where(exists, take_rows(labels, order), constant(-1, INT64)),
        op.ReduceSum(cast(exists, INT64), constant([1], INT64), keepdims=0),
    )
