"""The compiled module: importing it registers the ops; each function is a door to one through the dispatcher."""

from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor: ...
