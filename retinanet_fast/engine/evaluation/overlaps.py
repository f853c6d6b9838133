"""The detections and the annotated boxes of an image that overlap, of all images at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.results import Results

# Pairs looked at in one go: some 100 MB of coordinates.
AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Overlaps:
    """P pairs of a detection and a box of its image, by detection, then from the largest IoU, then by box."""

    detection: np.ndarray  # [P] int64, rows of the results
    truth: np.ndarray  # [P] int64, rows of the split's boxes
    iou: np.ndarray  # [P] float64, above 0; with a crowd: the share of the detection's area that lies in it

    def rows(self, which: np.ndarray) -> Overlaps:
        """The pairs of an index or of a mask, in their order."""
        return Overlaps(self.detection[which], self.truth[which], self.iou[which])

    def best(self, which: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each detection, the largest IoU of the pairs in a mask, and the box: ``[count]`` float64 and int64.

        Without such a pair they are 0 and -1. Of boxes that overlap it equally, the first.
        """
        some = self.rows(which)
        first = np.ones(len(some.detection), dtype=bool)
        first[1:] = some.detection[1:] != some.detection[:-1]
        iou, truth = np.zeros(count), np.full(count, -1, dtype=np.int64)
        iou[some.detection[first]] = some.iou[first]
        truth[some.detection[first]] = some.truth[first]
        return iou, truth


def overlaps(split: Split, results: Results) -> Overlaps:
    """Every pair of a detection and a box of the same image that overlap, of whatever categories.

    IoU is pycocotools' in its order of operations: intersection / (area + area - intersection), and for a crowd
    intersection / area of the detection.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    image = image_rows(split, results)
    boxes_of = np.diff(split.starts)[image]  # of each detection
    ends = np.cumsum(boxes_of)
    parts, begin = [], 0
    while begin < len(results):
        before = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, before + AT_ONCE, side="right")))
        detection = np.repeat(np.arange(begin, end), boxes_of[begin:end])
        place = np.arange(len(detection)) - np.repeat(
            ends[begin:end] - boxes_of[begin:end] - before, boxes_of[begin:end]
        )
        truth = split.starts[image[detection]] + place
        iou = _iou(results.bbox[detection], split.boxes.xywh[truth], split.boxes.crowd[truth])
        parts.append(Overlaps(detection, truth, iou).rows(iou > 0))
        begin = end
    names = ("detection", "truth", "iou")
    none = Overlaps(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))
    found = Overlaps(*(np.concatenate([getattr(part, name) for part in (*parts, none)]) for name in names))
    return found.rows(np.lexsort((found.truth, -found.iou, found.detection)))


def image_rows(split: Split, results: Results) -> np.ndarray:
    """The index of each detection's image in the split, ``[N]`` int64.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    image = split.images.index_of(results.image_id)
    if (image < 0).any():
        raise ValueError("evaluate: expected detections on the split's images only, got another image's id")
    return image


def _iou(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Of each row's pair of x, y, width, height; 0 where they do not overlap."""
    sides = [
        np.minimum(found[:, k] + found[:, k + 2], truth[:, k] + truth[:, k + 2])
        - np.maximum(found[:, k], truth[:, k])
        for k in (0, 1)
    ]
    area = found[:, 2] * found[:, 3]
    inside = np.where((sides[0] > 0) & (sides[1] > 0), sides[0] * sides[1], 0.0)
    outside = np.where(crowd, area, area + truth[:, 2] * truth[:, 3] - inside)
    return np.divide(inside, outside, out=np.zeros_like(inside), where=inside > 0)
