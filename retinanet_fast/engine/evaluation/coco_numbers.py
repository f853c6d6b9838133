"""COCO's numbers, by faster-coco-eval or by pycocotools, which agree; and LVIS's by the former."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.evaluation.by_faster import curves_by_faster
from retinanet_fast.engine.evaluation.by_pycocotools import curves_by_pycocotools
from retinanet_fast.engine.evaluation.curves import Curves, category_ids
from retinanet_fast.engine.evaluation.federated import LVIS_MOST, federation_of
from retinanet_fast.engine.evaluation.overlaps import image_rows
from retinanet_fast.engine.evaluation.results import Results

NAMES = ("AP", "AP50", "AP75", "APS", "APM", "APL", "AR1", "AR10", "AR100", "ARS", "ARM", "ARL")
EVALUATORS = {"faster": "faster-coco-eval", "pycocotools": "pycocotools"}


@dataclass
class Evaluation:
    """COCO's twelve numbers, or LVIS's thirteen, and AP and AP50 of each category. A number without ground truth is
    NaN.

    Attributes:
        numbers: by the names of ``NAMES``; LVIS's are AP to APL, APr, APc, APf, AR300 and ARS to ARL.
        per_category: name, AP, AP50, number of ground-truth boxes; in the order of the categories' ids.
        curves: what the numbers are means of.
        evaluator: the package that matched detections and boxes.
    """

    numbers: dict[str, float]
    per_category: list[tuple[str, float, float, int]]
    curves: Curves = field(repr=False)
    evaluator: str

    def table(self) -> str:
        """The numbers, in pycocotools' order and words."""
        lines = []
        for name, value in self.numbers.items():
            iou = {"50": "0.50", "75": "0.75"}.get(name[2:], "0.50:0.95")
            area = {"S": "small", "M": "medium", "L": "large"}.get(name[2:], "all")
            most = name[2:] if name.startswith("AR") and name[2:].isdigit() else str(self.curves.most[-1])
            words = "Average Precision (AP)" if name.startswith("AP") else "Average Recall    (AR)"
            scope = f"IoU={iou:<9} | area={area:>6} | maxDets={most:>3}"
            shown = -1.0 if math.isnan(value) else value  # as pycocotools prints it
            lines.append(f"{words} @[ {scope} ] = {shown:.3f}   {name}")
        return "\n".join(lines)

    def category_table(self) -> str:
        """AP and AP50 of each category."""
        width = max(len(name) for name, *_ in self.per_category)
        lines = [f"{'category':<{max(width, 8)}}     AP   AP50  boxes"]
        for name, ap, ap50, count in self.per_category:
            lines.append(f"{name:<{max(width, 8)}}  {ap:.3f}  {ap50:.3f}  {count:5d}")
        return "\n".join(lines)


def evaluate(
    split: Split,
    results: Results,
    image_ids: list[int] | None = None,
    evaluator: str = "auto",
) -> Evaluation:
    """Compare detections with the boxes of a split, as COCO does, or as LVIS does where it is in LVIS's format.

    Args:
        results: on images of the split, an image's detections in the order in which equal scores count.
        image_ids: the images to count, by default all; images without detections count too.
        evaluator: faster, pycocotools, or auto: faster where it is installed. They give the same numbers.

    Raises:
        ValueError: a detection on an image that is not in the split.
        InputError: LVIS's numbers by pycocotools, which has none; or its json lacks what they need.
    """
    federation = federation_of(split)
    split, results = counted(split, results, image_ids)
    name = choose_evaluator(evaluator)
    if federation is None:
        curves = (curves_by_faster if name == "faster" else curves_by_pycocotools)(split, results)
        numbers = _numbers(curves)
    elif name != "faster":
        raise InputError(
            f"{split.annotations}: evaluator: expected faster for a data set in LVIS's format, "
            'pip install "retinanet_fast[train]" installs it'
        )
    else:
        kept, lenient = federation.apply(split, results)
        curves = curves_by_faster(split, results.rows(kept), (LVIS_MOST,), lenient[kept])
        numbers = federation.numbers(split, curves)
    return Evaluation(numbers, _per_category(split, curves), curves, EVALUATORS[name])


def choose_evaluator(name: str) -> str:
    """faster or pycocotools: what a recipe's value stands for here."""
    if name != "auto":
        return name
    return "faster" if importlib.util.find_spec("faster_coco_eval") else "pycocotools"


def counted(split: Split, results: Results, image_ids: list[int] | None = None) -> tuple[Split, Results]:
    """The images to count, by default all, in the order of their ids, and the detections on them.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    image_rows(split, results)
    ids = split.images.ids if image_ids is None else np.array(image_ids, dtype=np.int64)
    some = split.of_images(split.images.index_of(np.sort(ids)))
    return some, results.rows(some.images.index_of(results.image_id) >= 0)


def _numbers(curves: Curves) -> dict[str, float]:
    values = (
        *(curves.ap(iou) for iou in (None, 0.5, 0.75)),
        *(curves.ap(area=area) for area in ("small", "medium", "large")),
        *(curves.ar(most) for most in curves.most),
        *(curves.ar(curves.most[-1], area) for area in ("small", "medium", "large")),
    )
    return dict(zip(NAMES, values, strict=True))


def _per_category(split: Split, curves: Curves) -> list[tuple[str, float, float, int]]:
    name_of = {category.id: category.name for category in split.categories}
    real = split.boxes.category_ids[~split.boxes.crowd]
    rows = []
    for index, category_id in enumerate(category_ids(split).tolist()):
        one = np.array([index])
        ap, ap50 = curves.ap(categories=one), curves.ap(0.5, categories=one)
        rows.append((name_of[category_id], ap, ap50, int((real == category_id).sum())))
    return rows
