"""The ops, CPU and CUDA, as functions; ``retinanet_fast.reference`` has the same names in plain PyTorch."""

from retinanet_fast.ops.box_iou import box_iou

__all__ = ["box_iou"]
