"""What a detector needs around the ops: anchors, the batch made of images, and boxes in the images' pixels."""

from retinanet_fast.nn.anchors import AnchorGenerator, retinanet_anchor_generator
from retinanet_fast.nn.batch_sizes import BatchSizes
from retinanet_fast.nn.packed_images import PackedImages, pack_images
from retinanet_fast.nn.targets import pad_targets
from retinanet_fast.nn.transform import DetectionTransform, ImageBatch
from retinanet_fast.structures import AnchorGrid, Detections

__all__ = [
    "AnchorGenerator",
    "AnchorGrid",
    "BatchSizes",
    "DetectionTransform",
    "Detections",
    "ImageBatch",
    "PackedImages",
    "pack_images",
    "pad_targets",
    "retinanet_anchor_generator",
]


def __dir__() -> list[str]:
    return sorted(__all__)
