"""The ops that can occur in evaluation, as ONNX's standard operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from retinanet_fast import ops  # noqa: F401  registers the ops

__all__ = ["onnx_translations"]


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """``custom_translation_table`` for ``torch.onnx.export(dynamo=True)`` of a model that calls the ops.

    ``box_iou``, ``encode_boxes``, ``decode_boxes``, ``nms``, ``batched_nms`` and ``retinanet_detect`` become standard
    operators of opset 18.

    Raises:
        ImportError: onnxscript is not installed.
    """
    from retinanet_fast.export import onnx_boxes, onnx_detect, onnx_nms

    registered = torch.ops.retinanet_fast
    return {
        registered.box_iou.default: onnx_boxes.box_iou,
        registered.encode_boxes.default: onnx_boxes.encode_boxes,
        registered.decode_boxes.default: onnx_boxes.decode_boxes,
        registered.nms.default: onnx_nms.nms,
        registered.batched_nms.default: onnx_nms.batched_nms,
        registered.retinanet_detect.default: onnx_detect.retinanet_detect,
    }
