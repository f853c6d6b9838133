"""Precision and recall by faster-coco-eval, pycocotools' algorithm in C++, one category at a time.

Its classes take a dict of every detection for the whole data set: of COCO's validation images 440,000, 1.5 GB. Its C++
functions, called here, take dicts too, but a category's curves depend on that category alone: the dicts of one are made
of the arrays, used and dropped before the next, and images with neither a box nor a detection of it are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retinanet_fast.engine.data.split import Boxes, Split
from retinanet_fast.engine.evaluation.curves import MOST, Curves, category_ids
from retinanet_fast.engine.evaluation.overlaps import image_rows
from retinanet_fast.engine.evaluation.results import Results


def curves_by_faster(
    split: Split, results: Results, most: tuple[int, ...] = MOST, lenient: np.ndarray | None = None
) -> Curves:
    """The curves of detections on a split whose images are in the order of their ids.

    Args:
        most: detections counted of a category on an image.
        lenient: ``[N]`` bool, detections that are no mistake where they match nothing; by default none.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    image = image_rows(split, results)
    order = np.lexsort((-results.score, image, results.category_id))  # stable
    marks = np.zeros(len(results), dtype=bool) if lenient is None else lenient
    found = _Found(image[order], results.bbox[order], results.score[order], marks[order])
    boxes_order = np.lexsort((split.owners, split.boxes.category_ids))
    owners, boxes = split.owners[boxes_order], split.boxes.rows(boxes_order)
    ids = category_ids(split)
    curves = Curves.without_truth(len(ids), most)
    some = _slices(results.category_id[order], ids)
    for index, (ours, theirs) in enumerate(zip(some, _slices(boxes.category_ids, ids))):
        if theirs.start == theirs.stop:
            continue  # nothing to find
        precision, recall = _one_category(
            found.rows(ours).best(most[-1]), owners[theirs], boxes.rows(theirs), most
        )
        curves.precision[:, :, index], curves.recall[:, index] = precision, recall
    return curves


class _Found:
    """Detections of a category, by image and from the highest score down."""

    def __init__(self, image: np.ndarray, bbox: np.ndarray, score: np.ndarray, lenient: np.ndarray) -> None:
        self.image, self.bbox, self.score, self.lenient = image, bbox, score, lenient

    def rows(self, which: slice | np.ndarray) -> _Found:
        return _Found(self.image[which], self.bbox[which], self.score[which], self.lenient[which])

    def best(self, count: int) -> _Found:
        """The first so many of each image."""
        place = np.arange(len(self.image)) - np.searchsorted(self.image, self.image)
        return self.rows(place < count)


def _one_category(
    found: _Found, owners: np.ndarray, boxes: Boxes, most: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Precision ``[10, 101, 4, D]`` and recall ``[10, 4, D]`` of a category's detections and boxes, both by image."""
    import faster_coco_eval.faster_eval_api_cpp as api
    from faster_coco_eval.core.cocoeval import Params
    from faster_coco_eval.core.mask import iou

    images = np.union1d(found.image, owners)
    ours, theirs = _slices(found.image, images), _slices(owners, images)
    crowd = boxes.crowd.astype(int).tolist()
    # Each category's detections and boxes are counted from 1: a match with number 0 would be none.
    areas = found.bbox[:, 2] * found.bbox[:, 3]
    columns = zip(found.score.tolist(), areas.tolist(), found.lenient.tolist())
    detections = [
        {"id": number, "score": score, "area": area, "lvis_mark": lenient}
        for number, (score, area, lenient) in enumerate(columns, 1)
    ]
    truth = [
        {"id": number, "area": area, "iscrowd": ignored, "ignore": ignored}
        for number, (area, ignored) in enumerate(zip(boxes.areas.tolist(), crowd), 1)
    ]
    params = Params(iouType="bbox")
    params.imgIds, params.catIds, params.maxDets = images.tolist(), [1], list(most)
    ious = [
        [iou(found.bbox[a], boxes.xywh[b], crowd[b]) if a.stop > a.start and b.stop > b.start else []]
        for a, b in zip(ours, theirs)
    ]
    sets = [_data_set(api, images, *side) for side in ((truth, theirs), (detections, ours))]
    found_curves = api.COCOevalEvaluateAccumulate(params, ious, *sets, params.imgIds, params.catIds, True)
    return found_curves["precision"][:, :, 0], found_curves["recall"][:, 0]


def _data_set(api: Any, images: np.ndarray, rows: list[dict[str, Any]], slices: list[slice]) -> Any:
    data_set = api.Dataset()
    some = [(image, 1, rows[of]) for image, of in zip(images.tolist(), slices) if of.stop > of.start]
    data_set.load_tuple((len(some), some))
    return data_set


def _slices(column: np.ndarray, values: np.ndarray) -> list[slice]:
    """Where each value is in an ascending column."""
    starts, stops = (np.searchsorted(column, values, side=side).tolist() for side in ("left", "right"))
    return [slice(start, stop) for start, stop in zip(starts, stops)]
