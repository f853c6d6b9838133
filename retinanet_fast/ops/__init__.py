"""The ops as functions, for CPU and CUDA; ``retinanet_fast.reference`` has the same names in plain PyTorch."""

from retinanet_fast import _transforms  # noqa: F401  what the ops are under torch.func
from retinanet_fast.ops.batched_nms import batched_nms
from retinanet_fast.ops.box_iou import box_iou
from retinanet_fast.ops.decode_boxes import decode_boxes
from retinanet_fast.ops.encode_boxes import encode_boxes
from retinanet_fast.ops.match_anchors import match_anchors
from retinanet_fast.ops.nms import nms
from retinanet_fast.ops.padded_batched_nms import padded_batched_nms
from retinanet_fast.ops.retinanet_detect import retinanet_detect
from retinanet_fast.ops.retinanet_loss import retinanet_loss
from retinanet_fast.ops.sigmoid_focal_loss import sigmoid_focal_loss
from retinanet_fast.ops.softmax_focal_loss import softmax_focal_loss

__all__ = [
    "batched_nms",
    "box_iou",
    "decode_boxes",
    "encode_boxes",
    "match_anchors",
    "nms",
    "padded_batched_nms",
    "retinanet_detect",
    "retinanet_loss",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
]


def __dir__() -> list[str]:
    return sorted(__all__)
