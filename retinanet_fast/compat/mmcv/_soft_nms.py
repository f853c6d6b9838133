"""The loop of Soft-NMS, in mmcv's order of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

METHODS = ("naive", "linear", "gaussian")


def soft_nms_loop(
    boxes: NDArray[np.floating],  # [N, 4]
    scores: NDArray[np.floating],  # [N], of the same dtype, float32 or float64
    classes: NDArray[Any] | None,  # [N]; boxes of two classes do not overlap
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: str,
    offset: int,
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The boxes with their final scores, ``[M, 5]``, and their indices ``[M]``, in the order of selection.

    Boxes are kept in one table whose columns move as mmcv's do: the best one is swapped to the front of the rest, and
    the place of a dropped one is taken by the last. So equal scores are selected in mmcv's order, too.
    """
    kind = boxes.dtype.type
    threshold, sigma_, minimum = kind(iou_threshold), kind(sigma), kind(min_score)
    x1, y1, x2, y2 = boxes.T
    areas = (x2 - x1 + kind(offset)) * (y2 - y1 + kind(offset))
    table = np.stack((x1, y1, x2, y2, scores, areas))
    index = np.arange(len(boxes))
    end, first = len(boxes), 0
    while first < end:
        best = first + int(np.argmax(table[4, first:end]))
        table[:, [first, best]] = table[:, [best, first]]
        index[[first, best]] = index[[best, first]]

        rest = slice(first + 1, end)
        overlap = _iou(table[:, first], table[:, rest], kind(offset))
        if classes is not None:
            overlap[classes[index[rest]] != classes[index[first]]] = 0
        if method == "gaussian":
            # The exponential in float64 and rounded once, as the C library's expf has it.
            exponent = -(overlap * overlap) / sigma_
            table[4, rest] *= np.exp(exponent.astype(np.float64)).astype(kind)
        else:
            factor = 1 - overlap if method == "linear" else np.zeros_like(overlap)
            table[4, rest] *= np.where(overlap >= threshold, factor, kind(1))

        kept = ~(table[4, rest] < minimum)
        count = int(kept.sum())
        holes = first + 1 + np.flatnonzero(~kept[:count])
        movers = first + 1 + count + np.flatnonzero(kept[count:])[::-1]
        table[:, holes] = table[:, movers]
        index[holes] = index[movers]
        first, end = first + 1, first + 1 + count
    return table[:5, :end].T.copy(), index[:end]


def _iou(
    box: NDArray[np.floating], others: NDArray[np.floating], offset: np.floating
) -> NDArray[np.floating]:
    zero = np.zeros((), others.dtype)
    width = np.maximum(zero, np.minimum(box[2], others[2]) - np.maximum(box[0], others[0]) + offset)
    height = np.maximum(zero, np.minimum(box[3], others[3]) - np.maximum(box[1], others[1]) + offset)
    inter = width * height
    union = box[5] + others[5] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union != 0)
