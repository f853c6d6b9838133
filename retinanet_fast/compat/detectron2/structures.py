"""detectron2's containers where it is installed, and as much of ``Boxes`` as is needed where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Boxes:
    """Boxes ``[N, 4]`` in ``.tensor``, for use without detectron2."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.to(torch.float32).reshape(-1, 4)

    def __len__(self) -> int:
        return self.tensor.shape[0]

    def __repr__(self) -> str:
        return f"Boxes({self.tensor})"

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    def to(self, device: torch.device | str) -> Boxes:
        return Boxes(self.tensor.to(device))


def boxes_type() -> type[Any]:
    """``detectron2.structures.Boxes``, or the class above where detectron2 is not installed."""
    try:
        from detectron2.structures import Boxes as Detectron2Boxes
    except ImportError:
        return Boxes
    return Detectron2Boxes


def tensor_of(boxes: Any) -> Tensor:
    """The tensor of a ``Boxes``, or the tensor itself."""
    return boxes if isinstance(boxes, Tensor) else boxes.tensor


def concatenated(boxes: Any) -> Tensor:
    """The boxes of all levels, ``[R, 4]``, from one tensor, one ``Boxes`` or a sequence of either."""
    if isinstance(boxes, Sequence):
        return torch.cat([tensor_of(level) for level in boxes])
    return tensor_of(boxes)
