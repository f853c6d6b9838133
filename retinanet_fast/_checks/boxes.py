"""The checks of the ops on rows of boxes: their IoU, their coding and their suppression."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from retinanet_fast._checks.arguments import (
    INTEGERS,
    IntLike,
    check_box_weights,
    check_boxes,
    check_floating,
    check_rows,
    check_same_device,
    check_shape,
    check_type,
    check_value,
    shape,
)


def check_box_iou(boxes1: Tensor, boxes2: Tensor) -> None:
    op = "box_iou"
    for argument, boxes in (("boxes1", boxes1), ("boxes2", boxes2)):
        check_rows(op, argument, "N", boxes)
        if boxes.dtype not in INTEGERS:
            check_floating(op, argument, boxes)
    check_same_device(op, "boxes2", boxes2, boxes1)


def check_encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> None:
    _check_coding("encode_boxes", "boxes", boxes, anchors, weights)


def check_decode_boxes(
    deltas: Tensor, anchors: Tensor, weights: Sequence[float], image_size: Sequence[IntLike]
) -> None:
    op = "decode_boxes"
    check_value(
        len(image_size) in (0, 2),
        lambda: f"{op}: expected image_size (height, width) or None, got {list(image_size)}",
    )
    _check_coding(op, "deltas", deltas, anchors, weights)


def _check_coding(op: str, argument: str, rows: Tensor, anchors: Tensor, weights: Sequence[float]) -> None:
    check_boxes(op, argument, rows)
    check_boxes(op, "anchors", anchors)
    check_same_device(op, "anchors", anchors, rows)
    check_value(
        rows.shape[0] == anchors.shape[0],
        lambda: (
            f"{op}: expected as many anchors as {argument}, got {argument} {shape(rows)} "
            f"and anchors {shape(anchors)}"
        ),
    )
    check_box_weights(op, "weights", weights)


def check_nms(op: str, boxes: Tensor, scores: Tensor) -> None:
    check_boxes(op, "boxes", boxes)
    check_shape(
        scores,
        boxes.shape[:1],
        lambda: f"{op}: expected scores [{boxes.shape[0]}], got {shape(scores)}",
    )
    check_same_device(op, "scores", scores, boxes)
    check_floating(op, "scores", scores)


def check_batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor) -> None:
    op = "batched_nms"
    check_shape(idxs, scores.shape, lambda: f"{op}: expected idxs {shape(scores)}, got {shape(idxs)}")
    check_type(
        not idxs.is_complex(),
        lambda: f"{op}: expected idxs of an integer or floating point dtype, got {idxs.dtype}",
    )
    check_same_device(op, "idxs", idxs, boxes)
    check_nms(op, boxes, scores)
