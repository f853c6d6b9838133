"""Precision and recall by pycocotools, COCO's own program: what the other evaluator is compared with."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.curves import Curves
from retinanet_fast.engine.evaluation.overlaps import image_rows
from retinanet_fast.engine.evaluation.results import Results


def curves_by_pycocotools(split: Split, results: Results) -> Curves:
    """The curves of detections on a split whose images are in the order of their ids.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    from pycocotools.cocoeval import COCOeval

    # Images are 1, 2, ... here: pycocotools' table of detections is of float64, which does not hold every id.
    rows = (image_rows(split, results) + 1, results.bbox, results.score, results.category_id)
    # pycocotools prints as it goes; what it finds is in its tables.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco_object(split, _annotations(split))
        # COCO.loadRes refuses no detections at all.
        found = truth.loadRes(np.column_stack(rows)) if len(results) else _coco_object(split, [])
        coco_eval = COCOeval(truth, found, "bbox")
        coco_eval.evaluate()
        coco_eval.accumulate()
    return Curves(coco_eval.eval["precision"], coco_eval.eval["recall"])


def _annotations(split: Split) -> list[dict[str, Any]]:
    """The boxes as pycocotools takes them. Ids count from 1, since it takes a match with annotation 0 for no match."""
    boxes = split.boxes
    columns = (split.owners + 1, boxes.category_ids, boxes.xywh, boxes.areas, boxes.crowd.astype(int))
    names = ("image_id", "category_id", "bbox", "area", "iscrowd")
    rows = zip(*(column.tolist() for column in columns))
    return [{"id": number, **dict(zip(names, row))} for number, row in enumerate(rows, 1)]


def _coco_object(split: Split, annotations: list[dict[str, Any]]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": number} for number in range(1, len(split.images) + 1)],
        "categories": [{"id": category.id, "name": category.name} for category in split.categories],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco
