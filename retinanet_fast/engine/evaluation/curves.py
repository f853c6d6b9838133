"""Precision and recall as COCO defines them: the arrays that every number of an evaluation is a mean of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from retinanet_fast.engine.data.split import Split

IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
AREAS = ("all", "small", "medium", "large")
MOST = (1, 10, 100)


@dataclass(frozen=True, eq=False)
class Curves:
    """Precision at 101 recalls, and the highest recall; -1 where there is no box to find.

    Attributes:
        precision: ``[10, 101, K, 4, D]`` float64, by IoU, recall, category, size of the objects, and number of
            detections counted on an image.
        recall: ``[10, K, 4, D]`` float64.
        most: the D numbers of detections.
    """

    precision: np.ndarray
    recall: np.ndarray
    most: tuple[int, ...] = MOST

    @classmethod
    def without_truth(cls, categories: int, most: tuple[int, ...] = MOST) -> Curves:
        """Of categories that no box has, to be filled in."""
        shape = (categories, len(AREAS), len(most))
        return cls(np.full((len(IOUS), 101, *shape), -1.0), np.full((len(IOUS), *shape), -1.0), most)

    def ap(self, iou: float | None = None, area: str = "all", categories: np.ndarray | None = None) -> float:
        """Average precision, of the most detections; NaN where there is no box to find."""
        part = self.precision[..., AREAS.index(area), -1]
        part = part if iou is None else part[[IOUS.index(iou)]]
        return mean(part if categories is None else part[:, :, categories])

    def ar(self, most: int, area: str = "all") -> float:
        """Average recall; NaN where there is no box to find."""
        return mean(self.recall[..., AREAS.index(area), self.most.index(most)])


def mean(values: np.ndarray) -> float:
    """Of those that there are: -1 stands for none."""
    known = values[values > -1]
    return float(np.mean(known)) if len(known) else math.nan


def category_ids(split: Split) -> np.ndarray:
    """The ids of the K categories, ascending: their order in the curves."""
    return np.array(sorted(category.id for category in split.categories), dtype=np.int64)
