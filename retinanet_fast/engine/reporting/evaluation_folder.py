"""What ``eval --out DIR`` leaves beside the detections: numbers, pictures and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.environment import describe
from retinanet_fast.engine.evaluation.analysis import Analysis
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.evaluation_plots import confusion_figure, curves_figure
from retinanet_fast.engine.reporting.pictures import Compared
from retinanet_fast.engine.reporting.plots import save
from retinanet_fast.engine.reporting.report import Report

NUMBERS, PAGE = "numbers.json", "report.html"
CURVES, CONFUSION = "precision_recall.png", "confusion.png"


def write_evaluation(
    folder: Path,
    label: str,
    split: Split,
    evaluation: Evaluation,
    analysis: Analysis,
    pictures: Sequence[Compared] = (),
) -> None:
    """Write an evaluation into a folder, which is made; files of these names are replaced.

    Args:
        label: what was evaluated, in words.
        pictures: of images that were read, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / NUMBERS, json.dumps(as_json(evaluation, analysis), indent=1) + "\n")
    save(curves_figure(evaluation), folder / CURVES)
    save(confusion_figure(analysis), folder / CONFUSION)
    Report(
        title=f"Evaluation on {split.annotations.name}",
        summary=f"{label}: {len(split.images)} images, {split.count_boxes()} boxes, {len(split.categories)} "
        f"categories, {sum(analysis.counts.values()) - analysis.counts['missed']:,} detections.",
        figures=[
            (f"{evaluation.numbers['AP']:.3f}", "AP, IoU 0.50 to 0.95"),
            (f"{evaluation.numbers['AP50']:.3f}", "AP50"),
            (f"{evaluation.numbers['AP75']:.3f}", "AP75"),
            (f"{analysis.counts['missed']:,}", "boxes that nothing comes near"),
        ],
        pictures=pictures,
        plots=(),
        evaluation=evaluation,
        evaluation_note=f"By {evaluation.evaluator}. The curves are of all sizes of objects.",
        analysis=analysis,
        timings=(),
        environment=describe(),
        recipe="",
    ).write(folder / PAGE)


def as_json(evaluation: Evaluation, analysis: Analysis) -> dict[str, Any]:
    """All the numbers; null where there is no box to find."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "evaluator": evaluation.evaluator,
        "numbers": {name: known(value) for name, value in evaluation.numbers.items()},
        "categories": [
            {"name": name, "AP": known(ap), "AP50": known(ap50), "boxes": boxes}
            for name, ap, ap50, boxes in evaluation.per_category
        ],
        "errors": {
            kind: {"number": analysis.counts[kind], "AP50_lost": lost}
            for kind, lost in analysis.costs.gained.items()
        },
    }
