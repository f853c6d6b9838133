"""Which category is taken for which."""

from __future__ import annotations

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.overlaps import overlaps
from retinanet_fast.engine.evaluation.results import Results


def confusion_matrix(split: Split, results: Results, score: float, iou: float = 0.5) -> np.ndarray:
    """``[K + 1, K + 1]`` int64: boxes by their category (row) and that of the detection that lies on them (column).

    Pairs are made whatever the categories, from the largest IoU down, each box and each detection once. The last
    column counts the boxes that no detection lies on, the last row the detections that lie on no box. Crowds are no
    boxes here, and detections in them, by the same IoU, are left out where they lie on no box.

    Args:
        score: detections below it are left out.
        iou: the least of a pair.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    ids = np.array(sorted(category.id for category in split.categories), dtype=np.int64)
    results = results.rows((results.score >= score) & np.isin(results.category_id, ids))
    pairs = overlaps(split, results)
    pairs = pairs.rows(pairs.iou >= iou)
    crowd = split.boxes.crowd[pairs.truth]
    lies_on = np.full(len(results), -1, dtype=np.int64)
    taken: set[int] = set()
    real = pairs.rows(~crowd)
    order = np.lexsort((real.truth, -results.score[real.detection], -real.iou))
    for detection, truth in zip(real.detection[order].tolist(), real.truth[order].tolist()):
        if lies_on[detection] < 0 and truth not in taken:
            lies_on[detection] = truth
            taken.add(truth)
    in_crowd = np.zeros(len(results), dtype=bool)
    in_crowd[pairs.detection[crowd]] = True
    row = np.append(np.searchsorted(ids, split.boxes.category_ids), len(ids))  # the last for box -1
    column = np.searchsorted(ids, results.category_id)
    counted = (lies_on >= 0) | ~in_crowd
    matrix = np.zeros((len(ids) + 1, len(ids) + 1), dtype=np.int64)
    np.add.at(matrix, (row[lies_on[counted]], column[counted]), 1)
    missed = ~split.boxes.crowd
    missed[list(taken)] = False
    np.add.at(matrix, (row[:-1][missed], len(ids)), 1)
    return matrix
