"""What a detector needs around the ops: anchors, and images on their way in and boxes on their way out."""

from retinanet_fast.nn.anchors import AnchorGenerator, retinanet_anchor_generator
from retinanet_fast.nn.transform import DetectionTransform, ImageBatch
from retinanet_fast.structures import AnchorGrid, Detections

__all__ = [
    "AnchorGenerator",
    "AnchorGrid",
    "DetectionTransform",
    "Detections",
    "ImageBatch",
    "retinanet_anchor_generator",
]
