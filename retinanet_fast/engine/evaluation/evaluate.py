"""COCO's numbers, by pycocotools."""

from __future__ import annotations

import contextlib
import io
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from retinanet_fast.engine.data.coco import Category, Split, is_integer, is_number, load_json
from retinanet_fast.engine.data.dataset import (
    CocoDataset,
    category_ids,
    eval_loader,
    read,
    readable,
    to_model,
)
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.precision import autocast, resolve
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.progress import Progress

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


@dataclass
class Detected:
    """Detections on a split in COCO's results format, and the ids of the images that were read."""

    results: list[dict[str, Any]]
    image_ids: list[int]
    images_per_second: float


def detect(
    model: nn.Module,
    split: Split,
    categories: list[Category],
    recipe: Recipe,
    device: torch.device,
    problems: Problems,
) -> Detected:
    """Run the model over every image of a split."""
    dataset = CocoDataset(split, categories)
    loader: DataLoader[Any] = eval_loader(dataset, recipe, device)
    ids = category_ids(categories, split)
    results: list[dict[str, Any]] = []
    image_ids: list[int] = []
    progress = Progress("evaluate", len(dataset))
    started = time.perf_counter()
    model.eval()
    for batch in read(loader):
        samples = readable(batch, problems)
        if not samples:
            continue
        outputs = run_model(model, to_model([sample.image for sample in samples], device), recipe)
        for sample, output in zip(samples, outputs):
            image_ids.append(sample.image_id)
            results += coco_results(output, sample.image_id, ids)
        if progress.due():
            done = len(image_ids)
            progress.draw(done, f"{done / (time.perf_counter() - started):.1f} images/s")
    progress.close()
    if not image_ids:
        raise InputError(f"{split.annotations}: no usable image: the data set is empty")
    return Detected(results, image_ids, len(image_ids) / (time.perf_counter() - started))


@torch.no_grad()
def run_model(model: nn.Module, images: list[Tensor], recipe: Recipe) -> list[dict[str, Tensor]]:
    """The model's detections, in the recipe's precision."""
    device = images[0].device
    with autocast(device, resolve(recipe.precision, device)):
        outputs: list[dict[str, Tensor]] = model(images)
    return outputs


def coco_results(output: dict[str, Tensor], image_id: int, ids: list[int | None]) -> list[dict[str, Any]]:
    """An image's detections in COCO's results format; ``ids[label - 1]`` is a label's category, or None to drop it."""
    results = []
    boxes, scores, labels = (output[key].tolist() for key in ("boxes", "scores", "labels"))
    for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels):
        # Label 0 is the background: the model has a column for it, which it learns never to predict.
        category_id = ids[label - 1] if label >= 1 else None
        if category_id is not None:
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score})
    return results


def read_results(path: Path, split: Split) -> list[dict[str, Any]]:
    """Detections from a file in COCO's results format.

    Raises:
        InputError: an entry is not a detection on an image of the split; it names file and entry.
    """
    results = load_json(path)
    if not isinstance(results, list):
        raise InputError(f"{path}: expected a list of detections, got a {type(results).__name__}")
    image_ids = {image.id for image in split.images}
    for index, entry in enumerate(results):
        where = f"{path}: [{index}]"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: expected an object, got {entry!r}")
        if not is_integer(entry.get("image_id")) or entry["image_id"] not in image_ids:
            raise InputError(f"{where}: image_id {entry.get('image_id')} is not in {split.annotations}")
        if not is_integer(entry.get("category_id")) or not is_number(entry.get("score")):
            raise InputError(f"{where}: expected a category_id and a score")
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
            raise InputError(f"{where}: expected bbox [x, y, width, height], got {bbox!r}")
    return results


def evaluate(split: Split, results: list[dict[str, Any]], image_ids: list[int] | None = None) -> Evaluation:
    """Compare detections with the boxes of a split, by pycocotools' COCOeval.

    Args:
        results: COCO's results format.
        image_ids: the images to count, by default all; images without detections count too.
    """
    from pycocotools.cocoeval import COCOeval

    # pycocotools prints as it goes; what it finds is in its tables.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco_object(_ground_truth(split))
        found = truth.loadRes([dict(result) for result in results]) if results else _without_boxes(split)
        coco_eval = COCOeval(truth, found, "bbox")
        if image_ids is not None:
            coco_eval.params.imgIds = sorted(image_ids)
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
    numbers = {name: _or_nan(value) for name, value in zip(NAMES, coco_eval.stats.tolist())}
    return Evaluation(numbers, _per_category(split, coco_eval))


def _ground_truth(split: Split) -> dict[str, Any]:
    """The split as pycocotools takes it. Ids count from 1, since it takes a match with annotation 0 for no match."""
    annotations: list[dict[str, Any]] = []
    for image_id in (image.id for image in split.images):
        for box in split.boxes.get(image_id, []):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": box.category_id,
                    "bbox": [box.x, box.y, box.width, box.height],
                    "area": box.area,
                    "iscrowd": int(box.crowd),
                }
            )
    return {**_without_annotations(split), "annotations": annotations}


def _without_annotations(split: Split) -> dict[str, Any]:
    images = [{"id": image.id, "width": image.width, "height": image.height} for image in split.images]
    categories = [{"id": category.id, "name": category.name} for category in split.categories]
    return {"info": {}, "images": images, "categories": categories, "annotations": []}


def _without_boxes(split: Split) -> Any:
    """No detections at all, which COCO.loadRes refuses."""
    return _coco_object(_without_annotations(split))


def _coco_object(dataset: dict[str, Any]) -> Any:
    from pycocotools.coco import COCO

    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _per_category(split: Split, coco_eval: Any) -> list[tuple[str, float, float, int]]:
    # precision [IoU, recall, category, area, maxDets]; area 0 is all, the last maxDets is 100; -1 where no truth
    precision = coco_eval.eval["precision"][:, :, :, 0, -1]
    images = set(coco_eval.params.imgIds)
    boxes = [
        box for image_id, found in split.boxes.items() if image_id in images for box in found if not box.crowd
    ]
    name_of = {category.id: category.name for category in split.categories}
    rows = []
    for index, category_id in enumerate(coco_eval.params.catIds):
        count = sum(box.category_id == category_id for box in boxes)
        ap, ap50 = precision[:, :, index].mean(), precision[0, :, index].mean()
        rows.append((name_of[category_id], _or_nan(ap), _or_nan(ap50), count))
    return rows


def _or_nan(value: float) -> float:
    """pycocotools says -1 where there is no ground truth to count."""
    return float(value) if value > -1 else math.nan
