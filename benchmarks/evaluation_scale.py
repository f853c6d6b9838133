"""Everything of an evaluation that is not inference, on a set of COCO's size: seconds, and pycocotools' beside it.

    python -m benchmarks.evaluation_scale [--images 5000] [--categories 80] [--out FILE] [--without-pycocotools]

The set is drawn from a seed: 7 boxes and 88 detections an image, categories as uneven as COCO's, 40% of the detections
on a box and moved by some 12% of its sides. The bars are for two cores and the default size.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.environment import describe
from benchmarks.harness import resident_peak
from benchmarks.numbers import Number, Result
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.evaluation.analysis import Analysis, analyse
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, evaluate
from retinanet_fast.engine.evaluation.results import Results, write_results
from retinanet_fast.engine.reporting.evaluation_folder import write_evaluation

BOXES, DETECTIONS, SIDE = 7, 88, 640
MOST_SECONDS, LEAST_RATIO = 15.0, 5.0
MOST_DIFFERENCE = 1e-12  # pycocotools adds 2**-52 to each denominator
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


def measure(images: int, categories: int, with_pycocotools: bool) -> Iterator[Number]:
    """Seconds of each part, and what both evaluators say."""
    split, results = drawn(images, categories)
    found: dict[str, Evaluation] = {}
    total = 0.0

    def timed(name: str, work: Callable[[], Any]) -> Number:
        nonlocal total
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        total += seconds
        return Number(name, seconds, "s", f"of processor time {cpu_seconds:.2f} s")

    def numbers_by(evaluator: str) -> Callable[[], None]:
        def work() -> None:
            found[evaluator] = evaluate(split, results, evaluator=evaluator)

        return work

    ours: list[Number] = []
    peak = resident_peak(lambda: ours.append(timed("COCO's numbers", numbers_by("faster"))))
    yield ours[0]
    if peak is not None:
        yield Number("COCO's numbers, peak memory", peak / 1e6, "MB", "beyond what was resident before")
    analyses: list[Analysis] = []
    yield timed("kinds of error, confusion", lambda: analyses.append(analyse(split, results)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield timed(
            "pictures and page",
            lambda: write_evaluation(folder, "", split, found["faster"], analyses[0]),
        )
        yield timed("detections as json", lambda: write_results(folder / "detections.json", results))
    yield Number("all of it", total, "s", f"{len(results):,} detections on {images:,} images", MOST_SECONDS)
    if with_pycocotools:
        theirs = timed("COCO's numbers, pycocotools", numbers_by("pycocotools"))
        yield theirs
        both = (np.array(list(found[name].numbers.values())) for name in ("faster", "pycocotools"))
        difference = float(np.nanmax(np.abs(np.subtract(*both))))
        yield Number(
            "the twelve numbers' difference", difference, "", "the largest of twelve", MOST_DIFFERENCE
        )
        yield Number(
            "COCO's numbers, times pycocotools'",
            theirs.value / ours[0].value,
            "x",
            limit=LEAST_RATIO,
            at_least=True,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, with missed bars too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation_scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("runs/bench/evaluation_scale.json"))
    parser.add_argument("--images", type=int, default=5000, metavar="N")
    parser.add_argument("--categories", type=int, default=80, metavar="N")
    parser.add_argument("--without-pycocotools", action="store_true", help="which takes a minute")
    options = parser.parse_args(arguments)
    versions = {package: metadata.version(package) for package in PACKAGES}
    result = Result(
        describe(torch.device("cpu")) | versions, f"{options.images} images, {options.categories} categories"
    )
    numbers = measure(options.images, options.categories, not options.without_pycocotools)
    result.collect(numbers, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
