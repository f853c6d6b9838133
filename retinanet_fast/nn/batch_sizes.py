"""The sizes of a batch's images, as numbers that a traced program may know as symbols only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast.structures import size_tensor

__all__ = ["BatchSizes", "Size", "Sizes", "padded_size", "resized_size", "sizes_of"]

Size = tuple[int, int]  # (height, width)
Sizes = Sequence[Size] | Tensor  # B pairs, or [B, 2] int64


class BatchSizes(NamedTuple):
    """What a transform makes of a batch's sizes; see ``DetectionTransform.batch_sizes``."""

    resized: tuple[Size, ...]  # of each image; of images that are one tensor, one size for all
    padded: Size  # of the batch


# sym_min and sym_max: in a traced program, min() and max() of sizes would tie it to which of them is larger.


def resized_size(height: int, width: int, min_size: int, max_size: int) -> Size:
    """The size at which the shorter side is ``min_size`` or the longer ``max_size``, whichever comes first; rounded
    down, at least 1."""
    shorter, longer = torch.sym_min(height, width), torch.sym_max(height, width)
    scale = torch.sym_min(min_size / shorter, max_size / longer)
    return torch.sym_max(1, torch.sym_int(height * scale)), torch.sym_max(1, torch.sym_int(width * scale))


def padded_size(sizes: Sequence[Size], multiple: int) -> Size:
    """The largest height and the largest width, each rounded up to a multiple."""
    height, width = (reduce(torch.sym_max, lengths) for lengths in zip(*sizes, strict=True))
    return (height + multiple - 1) // multiple * multiple, (width + multiple - 1) // multiple * multiple


def sizes_of(images: Sequence[Tensor] | Tensor) -> Sizes:
    """(height, width) of each image."""
    if isinstance(images, Tensor):
        return size_tensor([(images.shape[-2], images.shape[-1])], images.device).expand(images.shape[0], 2)
    return [(image.shape[-2], image.shape[-1]) for image in images]
