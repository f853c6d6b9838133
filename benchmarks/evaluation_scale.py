"""Everything of an evaluation that is not inference, on a set of COCO's size: seconds, and pycocotools' beside it.

    python -m benchmarks.evaluation_scale [--images 5000] [--categories 80] [--json FILE] [--without-pycocotools]

The set is drawn from a seed: 7 boxes and 88 detections an image, categories as uneven as COCO's, 40% of the detections
on a box and moved by some 12% of its sides. The bars are for two cores and the default size.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import describe
from benchmarks.harness import resident_peak
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.evaluation.analysis import analyse
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, evaluate
from retinanet_fast.engine.evaluation.results import Results, write_results
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.evaluation_folder import write_evaluation

BOXES, DETECTIONS, SIDE = 7, 88, 640
MOST_SECONDS, LEAST_RATIO = 15.0, 5.0
PACKAGES = ("faster-coco-eval", "pycocotools", "numpy", "matplotlib")


def drawn(images: int, categories: int, seed: int = 0) -> tuple[Split, Results]:
    """A split and detections on it."""
    draw = np.random.default_rng(seed)
    ids = np.arange(1, categories + 1)
    shares = (1 / ids) / (1 / ids).sum()

    def boxes(count: int) -> np.ndarray:
        sides = np.exp(draw.normal(4, 0.9, (count, 2))).clip(4, 400)
        return np.concatenate((draw.random((count, 2)) * (SIDE - sides), sides), axis=1)

    truth = boxes(images * BOXES)
    packed = Boxes(
        truth,
        draw.choice(ids, len(truth), p=shares),
        truth[:, 2:].prod(axis=1) * 0.6,
        draw.random(len(truth)) < 0.01,
    )
    entries = Images.of([(3 * place + 1, f"{place}.jpg", SIDE, SIDE) for place in range(images)])
    names = [Category(int(category), f"category {category}") for category in ids]
    split = Split.of(Path("drawn.json"), names, entries, packed, draw.integers(0, images, len(truth)))

    count = images * DETECTIONS
    near, source = draw.random(count) < 0.4, draw.integers(0, len(truth), count)
    moved = split.boxes.xywh[source]
    moved = moved + draw.normal(0, 0.12, (count, 4)) * np.tile(moved[:, 2:], 2)
    bbox = np.where(near[:, None], moved, boxes(count))
    bbox[:, 2:] = bbox[:, 2:].clip(1)
    right = near & (draw.random(count) < 0.8)
    category = np.where(right, split.boxes.category_ids[source], draw.choice(ids, count, p=shares))
    image = np.where(near, split.owners[source], draw.integers(0, images, count))
    score = np.where(near, draw.beta(2, 2, count), draw.beta(1, 6, count))
    return split, Results(split.images.ids[image], category, bbox, score).by_image()


def measure(images: int, categories: int, with_pycocotools: bool) -> dict[str, Any]:
    """Seconds of each part, and what both evaluators say."""
    split, results = drawn(images, categories)
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}  # of this process: beside others, the clock's are more

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start, cpu_start = time.perf_counter(), time.process_time()
        found = work()
        seconds[name], cpu_seconds[name] = time.perf_counter() - start, time.process_time() - cpu_start
        print(f"{name:<28} {seconds[name]:7.2f} s, CPU {cpu_seconds[name]:7.2f} s", flush=True)
        return found

    found: dict[str, Evaluation] = {}

    def numbers() -> None:
        found["faster"] = timed("COCO's numbers", lambda: evaluate(split, results, evaluator="faster"))

    peak = resident_peak(numbers)
    analysis = timed("kinds of error, confusion", lambda: analyse(split, results))
    with tempfile.TemporaryDirectory() as folder:
        timed(
            "pictures and page", lambda: write_evaluation(Path(folder), "", split, found["faster"], analysis)
        )
        timed("detections as json", lambda: write_results(Path(folder) / "detections.json", results))
    total = sum(seconds.values())
    print(f"{'all of it':<28} {total:7.2f} s")
    row: dict[str, Any] = {
        "images": images,
        "categories": categories,
        "boxes": len(split.boxes),
        "detections": len(results),
    }
    row |= {"seconds": dict(seconds), "cpu_seconds": cpu_seconds, "total_seconds": total}
    row["numbers_peak_bytes"] = peak
    if with_pycocotools:
        truth = timed(
            "COCO's numbers, pycocotools", lambda: evaluate(split, results, evaluator="pycocotools")
        )
        differences = [abs(truth.numbers[name] - value) for name, value in found["faster"].numbers.items()]
        row["pycocotools_seconds"] = seconds["COCO's numbers, pycocotools"]
        row["times_faster"] = row["pycocotools_seconds"] / seconds["COCO's numbers"]
        row["largest_difference"] = float(np.nanmax(differences))
        print(
            f"{row['times_faster']:.1f} times faster; the twelve numbers differ by {row['largest_difference']:.1g}"
        )
    return row


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--json", type=Path, help="file for the results")
    parser.add_argument("--without-pycocotools", action="store_true", help="which takes a minute")
    options = parser.parse_args()
    row = measure(options.images, options.categories, not options.without_pycocotools)
    bars = {f"all of it <= {MOST_SECONDS:g} s": row["total_seconds"] <= MOST_SECONDS}
    if "times_faster" in row:
        bars[f">= {LEAST_RATIO:g} times pycocotools"] = row["times_faster"] >= LEAST_RATIO
    for bar, holds in bars.items():
        print(f"bar: {bar}: {'holds' if holds else 'MISSED'}")
    if options.json is not None:
        versions = {package: metadata.version(package) for package in PACKAGES}
        content = {"environment": describe(torch.device("cpu")) | versions, "result": row, "bars": bars}
        write_text(options.json, json.dumps(content, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
