"""detectron2's functions on boxes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat.detectron2.structures import tensor_of

_DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``detectron2.layers.nms``, which is torchvision's, by :func:`retinanet_fast.ops.nms`. Scores may have another
    dtype than boxes."""
    return ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """``detectron2.layers.batched_nms`` by :func:`retinanet_fast.ops.batched_nms`: boxes are taken as float32.

    What differs: classes are compared exactly, where torchvision, below detectron2, moves them apart in float32 for few
    boxes; equal scores keep their input order. ``idxs`` may be of any dtype.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"batched_nms: expected boxes [N, 4], got {list(boxes.shape)}")
    return ops.batched_nms(boxes.float(), scores, idxs, iou_threshold)


def pairwise_iou(boxes1: Any, boxes2: Any) -> Tensor:
    """``detectron2.structures.pairwise_iou`` of two ``Boxes`` or tensors by :func:`retinanet_fast.ops.box_iou`.

    Boxes without area have IoU 0, as in detectron2; ``ops.box_iou`` has NaN for 0 / 0.

    Returns:
        ``[N, M]``. Differentiable.
    """
    iou = ops.box_iou(tensor_of(boxes1), tensor_of(boxes2))
    return torch.where(iou > 0, iou, 0)


class Box2BoxTransform:
    """``detectron2.modeling.box_regression.Box2BoxTransform`` by :func:`retinanet_fast.ops.encode_boxes` and
    :func:`retinanet_fast.ops.decode_boxes`.

    Note the order of the arguments: ``get_deltas(src_boxes, target_boxes)`` is ``encode_boxes(boxes=target_boxes,
    anchors=src_boxes)``. What differs: results may differ by rounding; ``get_deltas`` is not TorchScript.
    """

    def __init__(
        self, weights: tuple[float, float, float, float], scale_clamp: float = _DEFAULT_SCALE_CLAMP
    ) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """``(dx, dy, dw, dh)``, ``[N, 4]``, that turn ``src_boxes`` into ``target_boxes``. As detectron2 does, it looks
        at the widths of ``src_boxes``, which waits for a CUDA device."""
        deltas = ops.encode_boxes(target_boxes, src_boxes, self.weights)
        if not bool((src_boxes[:, 2] > src_boxes[:, 0]).all()):
            raise ValueError("Box2BoxTransform: expected src_boxes with x2 > x1, got a box without width")
        return deltas

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """``boxes`` ``[N, 4]`` moved by ``deltas`` ``[N, k * 4]``, in float32 whatever their dtypes: ``[N, k * 4]``."""
        deltas = deltas.float()
        boxes = boxes.to(deltas.dtype)
        count = deltas.shape[1] // 4
        if deltas.dim() != 2 or deltas.shape[1] != 4 * count or deltas.shape[0] != boxes.shape[0]:
            raise ValueError(
                f"Box2BoxTransform: expected deltas [{boxes.shape[0]}, k * 4], got {list(deltas.shape)}"
            )
        if count != 1:
            boxes = boxes.repeat_interleave(count, dim=0)
        decoded = ops.decode_boxes(deltas.reshape(-1, 4), boxes, self.weights, max_log_scale=self.scale_clamp)
        return decoded.reshape(deltas.shape)


def fast_transform(transform: Any) -> Any:
    """A model's own ``Box2BoxTransform`` as ours; any other coding as it is."""
    if type(transform).__name__ == "Box2BoxTransform":
        return Box2BoxTransform(tuple(transform.weights), transform.scale_clamp)
    return transform
