"""The ops in a few lines of plain PyTorch each, under the same names and signatures.

These eager twins define what ``retinanet_fast.ops`` computes; tests and benchmarks compare with them. They need no
built extension. float16 and bfloat16 are computed in float32 and returned in their own dtype.
"""

from retinanet_fast.reference.batched_nms import batched_nms
from retinanet_fast.reference.box_iou import box_iou
from retinanet_fast.reference.decode_boxes import decode_boxes
from retinanet_fast.reference.encode_boxes import encode_boxes
from retinanet_fast.reference.match_anchors import match_anchors
from retinanet_fast.reference.nms import nms
from retinanet_fast.reference.padded_batched_nms import padded_batched_nms
from retinanet_fast.reference.retinanet_detect import retinanet_detect
from retinanet_fast.reference.retinanet_loss import retinanet_loss
from retinanet_fast.reference.sigmoid_focal_loss import sigmoid_focal_loss
from retinanet_fast.reference.softmax_focal_loss import softmax_focal_loss

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
