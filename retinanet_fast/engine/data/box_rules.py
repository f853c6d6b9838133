"""What a box of a data set must be, in any form: it has an area, and lies in its image but for rounding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# COCO's own boxes overshoot their image by rounding, by less than this many pixels; they are clipped.
OVERSHOOT = 1.0
LONGEST_SIDE = 2**31 - 1  # of an image, in pixels


def inside(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes are as they must be.

    Args:
        xywh: ``[M, 4]`` float64: x, y, width, height in pixels.
        sizes: ``[M, 2]``: width and height of each box's image.

    Returns:
        ``[M]`` bool.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        low, length = xywh[:, :2], xywh[:, 2:]
        high = low + length
        within = (low >= -OVERSHOOT) & (high <= sizes + OVERSHOOT) & (low < sizes) & (high > 0)
        return ((length > 0) & within).all(axis=1)


def clip(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes inside their image; those that are already keep their very numbers."""
    low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
    start, end = np.maximum(low, 0.0), np.minimum(high, sizes)
    same = ((start == low) & (end == high)).all(axis=1)
    return np.where(same[:, None], xywh, np.concatenate((start, end - start), axis=1))


def box_fault(bbox: Sequence[float], size: Sequence[int]) -> str | None:
    """What is wrong with a box ``[x, y, width, height]`` of an image of (width, height), if anything is: what
    ``inside`` says of many."""
    if not (bbox[2] > 0 and bbox[3] > 0):
        return f"bbox {list(bbox)} has no area"
    for low, length, side in zip(bbox[:2], bbox[2:], size):
        high = low + length
        if not (low >= -OVERSHOOT and high <= side + OVERSHOOT and low < side and high > 0):
            return f"bbox {list(bbox)} is outside its image of {size[0]}x{size[1]} pixels"
    return None
