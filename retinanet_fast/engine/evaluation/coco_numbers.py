"""COCO's numbers, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.results import Results

NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")


@dataclass
class Evaluation:
    """COCO's twelve numbers, and AP and AP50 of each category. A number without ground truth is NaN.

    Attributes:
        numbers: by the names of ``NAMES``.
        per_category: name, AP, AP50, number of ground-truth boxes.
    """

    numbers: dict[str, float]
    per_category: list[tuple[str, float, float, int]]

    def table(self) -> str:
        """The twelve numbers, in pycocotools' order and words."""
        what = [("Average Precision", "AP")] * 6 + [("Average Recall", "AR")] * 6
        iou = ["0.50:0.95", "0.50", "0.75"] + ["0.50:0.95"] * 9
        area = ["all"] * 3 + ["small", "medium", "large"] + ["all"] * 3 + ["small", "medium", "large"]
        most = [100] * 6 + [1, 10, 100] + [100] * 3
        lines = []
        for i, (name, value) in enumerate(self.numbers.items()):
            words, short = what[i]
            scope = f"IoU={iou[i]:<9} | area={area[i]:>6} | maxDets={most[i]:>3}"
            shown = -1.0 if math.isnan(value) else value  # as pycocotools prints it
            lines.append(f"{words:<17} ({short}) @[ {scope} ] = {shown:.3f}   {name}")
        return "\n".join(lines)

    def category_table(self) -> str:
        """AP and AP50 of each category."""
        width = max(len(name) for name, *_ in self.per_category)
        lines = [f"{'category':<{max(width, 8)}}     AP   AP50  boxes"]
        for name, ap, ap50, count in self.per_category:
            lines.append(f"{name:<{max(width, 8)}}  {ap:.3f}  {ap50:.3f}  {count:5d}")
        return "\n".join(lines)


def evaluate(split: Split, results: Results, image_ids: list[int] | None = None) -> Evaluation:
    """Compare detections with the boxes of a split, by pycocotools' COCOeval.

    Args:
        results: on images of the split, an image's detections in the order in which equal scores count.
        image_ids: the images to count, by default all; images without detections count too.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    from pycocotools.cocoeval import COCOeval

    # pycocotools prints as it goes; what it finds is in its tables.
    with contextlib.redirect_stdout(io.StringIO()):
        places = _places(split)
        truth = _coco_object(_ground_truth(split, places))
        # COCO.loadRes refuses no detections at all.
        found = (
            truth.loadRes(_table(results, places)) if len(results) else _coco_object(_images(split, places))
        )
        coco_eval = COCOeval(truth, found, "bbox")
        counted = places if image_ids is None else image_ids
        coco_eval.params.imgIds = sorted(places[image_id] for image_id in counted)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    numbers = {name: _or_nan(value) for name, value in zip(NAMES, coco_eval.stats.tolist())}
    return Evaluation(numbers, _per_category(split, coco_eval, set(counted)))


def _places(split: Split) -> dict[int, int]:
    """The images' ids as pycocotools gets them: 1, 2, ... in the order of the ids. Its table of detections is of
    float64, which does not hold every id."""
    return {image_id: place for place, image_id in enumerate(sorted(split.images.ids.tolist()), 1)}


def _table(results: Results, places: dict[int, int]) -> np.ndarray:
    """Detections as ``COCO.loadRes`` takes them: rows of image, x, y, width, height, score, category."""
    ids = np.array(list(places), dtype=np.int64)  # sorted
    place = np.searchsorted(ids, results.image_id).clip(max=len(ids) - 1)
    if not np.array_equal(ids[place], results.image_id):
        raise ValueError("evaluate: expected detections on the split's images only, got another image's id")
    return np.column_stack((place + 1, results.bbox, results.score, results.category_id))


def _ground_truth(split: Split, places: dict[int, int]) -> dict[str, Any]:
    """The split as pycocotools takes it. Ids count from 1, since it takes a match with annotation 0 for no match."""
    owners = [places[image_id] for image_id in split.images.ids[split.owners].tolist()]
    annotations = [
        {
            "id": number,
            "image_id": place,
            "category_id": box.category_id,
            "bbox": [box.x, box.y, box.width, box.height],
            "area": box.area,
            "iscrowd": int(box.crowd),
        }
        for number, (place, box) in enumerate(zip(owners, split.boxes), 1)
    ]
    return {**_images(split, places), "annotations": annotations}


def _images(split: Split, places: dict[int, int]) -> dict[str, Any]:
    images = [
        {"id": places[image.id], "width": image.width, "height": image.height} for image in split.images
    ]
    categories = [{"id": category.id, "name": category.name} for category in split.categories]
    return {"info": {}, "images": images, "categories": categories, "annotations": []}


def _coco_object(dataset: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _per_category(split: Split, coco_eval: Any, images: set[int]) -> list[tuple[str, float, float, int]]:
    # precision [IoU, recall, category, area, maxDets]; area 0 is all, the last maxDets is 100; -1 where no truth
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    counted = np.isin(split.images.ids, list(images))[split.owners] & ~split.boxes.crowd
    boxes = split.boxes.category_ids[counted]
    name_of = {category.id: category.name for category in split.categories}
    rows = []
    for index, category_id in enumerate(coco_eval.params.catIds):
        count = int((boxes == category_id).sum())
        ap, ap50 = precision[:, :, index].mean(), precision[0, :, index].mean()
        rows.append((name_of[category_id], _or_nan(ap), _or_nan(ap50), count))
    return rows


def _or_nan(value: float) -> float:
    """pycocotools says -1 where there is no ground truth to count."""
    return float(value) if value > -1 else math.nan
