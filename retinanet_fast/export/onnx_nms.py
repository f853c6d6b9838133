"""``ops.nms`` and ``ops.batched_nms`` by ONNX's ``NonMaxSuppression``."""

from __future__ import annotations

import numpy as np
from onnxscript import opset18 as op

from retinanet_fast.export.onnx_values import FLOAT, INT64, Value, cast, constant, reshape, unsqueeze

__all__ = ["batched_nms", "below_as_float32", "nms"]

LOWEST = float(np.finfo(np.float32).min)


def nms(boxes: Value, scores: Value, iou_threshold: float) -> Value:
    """Compares in float32, as the operator does, wider boxes and scores too."""
    count = op.Shape(scores)
    chosen = op.NonMaxSuppression(
        unsqueeze(cast(boxes, FLOAT), 0),
        reshape(cast(scores, FLOAT), (1, 1, -1)),
        count,
        below_as_float32(iou_threshold),
    )
    return op.Gather(chosen, constant(2, INT64), axis=1)


def batched_nms(boxes: Value, scores: Value, idxs: Value, iou_threshold: float) -> Value:
    """As ``nms``, with a row of scores for each class that occurs; a score of -inf is no box."""
    scores = cast(scores, FLOAT)
    classes = unsqueeze(op.Unique(idxs, sorted=1)[0], 1)
    of_class = op.Where(op.Equal(unsqueeze(idxs, 0), classes), unsqueeze(scores, 0), constant(-np.inf, FLOAT))
    chosen = op.NonMaxSuppression(
        unsqueeze(cast(boxes, FLOAT), 0),
        unsqueeze(of_class, 0),
        op.Shape(scores),
        below_as_float32(iou_threshold),
        constant([LOWEST], FLOAT),
    )
    # Class by class: sorted by index first, TopK keeps that order among equal scores.
    index = op.Gather(chosen, constant(2, INT64), axis=1)
    count = op.Shape(index)
    index, _ = op.TopK(index, count, largest=0)
    _, order = op.TopK(op.Gather(scores, index), count)
    return op.Gather(index, order)


def below_as_float32(threshold: float) -> Value:
    """The largest float32 that is not above the threshold, which the ops compare in float64.

    Raises:
        ValueError: a threshold that the operator does not take.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"nms: expected an IoU threshold from 0 to 1 for ONNX, got {threshold}")
    nearest = np.float32(threshold)
    lower = nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-1))
    return constant([lower], FLOAT)
