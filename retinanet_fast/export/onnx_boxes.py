"""Boxes in ONNX's standard operators: coding and intersection over union."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxscript import opset18 as op

from retinanet_fast.export.onnx_values import DOUBLE, FLOAT, Value, cast, columns, constant, integers

__all__ = ["box_iou", "decode", "decode_boxes", "encode_boxes", "limits_of"]


def decode(deltas: Value, anchors: Value, weights: Sequence[float], max_log_scale: float) -> Value:
    """``ops.decode_boxes`` of float64 deltas and anchors ``[..., 4]``, without clipping."""
    x, y, w, h = _center_size(anchors)
    dx, dy, dw, dh = (
        op.Div(delta, constant(weight, DOUBLE)) for delta, weight in zip(columns(deltas), weights)
    )
    limit, half = constant(max_log_scale, DOUBLE), constant(0.5, DOUBLE)
    center_x, center_y = op.Add(op.Mul(dx, w), x), op.Add(op.Mul(dy, h), y)
    half_w = op.Mul(half, op.Mul(op.Exp(op.Min(dw, limit)), w))
    half_h = op.Mul(half, op.Mul(op.Exp(op.Min(dh, limit)), h))
    return op.Concat(
        op.Sub(center_x, half_w),
        op.Sub(center_y, half_h),
        op.Add(center_x, half_w),
        op.Add(center_y, half_h),
        axis=-1,
    )


def limits_of(sizes: Value) -> Value:
    """The corners' upper limits ``[..., 4]`` in float64, from sizes ``[..., 2]`` (height, width)."""
    height, width = columns(cast(sizes, DOUBLE), 2)
    return op.Concat(width, height, width, height, axis=-1)


def decode_boxes(
    deltas: Value,
    anchors: Value,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: float = math.log(1000 / 16),
    image_size: Sequence[int | Value] = (),
) -> Value:
    boxes = decode(cast(deltas, DOUBLE), cast(anchors, DOUBLE), weights, max_log_scale)
    if len(image_size):
        boxes = op.Max(op.Min(boxes, limits_of(integers(list(image_size)))), constant(0.0, DOUBLE))
    return _as_wider(boxes, deltas, anchors)


def encode_boxes(boxes: Value, anchors: Value, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Value:
    x, y, w, h = _center_size(cast(boxes, DOUBLE))
    anchor_x, anchor_y, anchor_w, anchor_h = _center_size(cast(anchors, DOUBLE))
    deltas = (
        op.Div(op.Sub(x, anchor_x), anchor_w),
        op.Div(op.Sub(y, anchor_y), anchor_h),
        op.Log(op.Div(w, anchor_w)),
        op.Log(op.Div(h, anchor_h)),
    )
    scaled = [op.Mul(delta, constant(weight, DOUBLE)) for delta, weight in zip(deltas, weights)]
    return _as_wider(op.Concat(*scaled, axis=-1), boxes, anchors)


def box_iou(boxes1: Value, boxes2: Value) -> Value:
    dtype = DOUBLE if DOUBLE in (boxes1.dtype, boxes2.dtype) else FLOAT
    first = columns(op.Unsqueeze(cast(boxes1, dtype), integers(1)))
    second = columns(op.Unsqueeze(cast(boxes2, dtype), integers(0)))
    zero = constant(0.0, dtype)
    overlaps = [
        op.Max(op.Sub(op.Min(first[axis + 2], second[axis + 2]), op.Max(first[axis], second[axis])), zero)
        for axis in (0, 1)
    ]
    intersection = op.Mul(*overlaps)
    area1, area2 = (op.Mul(op.Sub(b[2], b[0]), op.Sub(b[3], b[1])) for b in (first, second))
    union = op.Sub(op.Add(area1, area2), intersection)
    return op.Squeeze(op.Div(intersection, union), integers(-1))


def _center_size(boxes: Value) -> tuple[Value, Value, Value, Value]:
    """Centre and size, each ``[..., 1]``, of float64 boxes."""
    x1, y1, x2, y2 = columns(boxes)
    width, height, half = op.Sub(x2, x1), op.Sub(y2, y1), constant(0.5, DOUBLE)
    return op.Add(x1, op.Mul(half, width)), op.Add(y1, op.Mul(half, height)), width, height


def _as_wider(result: Value, *inputs: Value) -> Value:
    """In the widest dtype of the inputs."""
    return cast(result, max((value.dtype for value in inputs), key=lambda dtype: dtype.itemsize))
