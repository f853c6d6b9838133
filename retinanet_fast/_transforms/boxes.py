"""IoU and coding of boxes under transforms."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from retinanet_fast import reference
from retinanet_fast._checks.boxes import check_box_iou, check_decode_boxes, check_encode_boxes
from retinanet_fast._transforms.decompose import decomposition


@decomposition("box_iou")
def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_box_iou(boxes1, boxes2)
    if not (boxes1.is_floating_point() or boxes2.is_floating_point()):  # whole pixels, whose areas are exact
        return reference.box_iou(boxes1.double(), boxes2.double()).float()
    return reference.box_iou(boxes1, boxes2)


@decomposition("encode_boxes")
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    check_encode_boxes(boxes, anchors, weights)
    return reference.encode_boxes(boxes, anchors, weights)


@decomposition("decode_boxes")
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float],
    max_log_scale: float,
    image_size: Sequence[int],
) -> Tensor:
    check_decode_boxes(deltas, anchors, weights, image_size)
    size = (image_size[0], image_size[1]) if image_size else None
    return reference.decode_boxes(deltas, anchors, weights, max_log_scale=max_log_scale, image_size=size)
