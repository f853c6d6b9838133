"""How long the page of ``retinanet-fast browse`` takes to write and to open, for a split of COCO's size.

    python -m benchmarks.browse_scale [--images 5000] [--out FILE] [--keep FOLDER]

Images, boxes and detections are generated from a fixed seed: 80 classes, 7.3 boxes and 88 detections an image, in files
of 500 different JPEGs of 640x480 pixels, which are linked to under the other names. The page is opened in headless
Chromium as a file, as a user does, in a window of 1280x900: a new browser each time, whose own start is not counted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from benchmarks.chromium import Chromium, chromium, executable
from benchmarks.environment import describe
from benchmarks.numbers import Number, Result
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.evaluation.results import Results
from retinanet_fast.engine.reporting.browse import BrowsePage

WIDTH, HEIGHT = 640, 480
CLASSES = 80
BOXES_AN_IMAGE, DETECTIONS_AN_IMAGE = 7.3, 88
DIFFERENT_FILES = 500
MOST_SECONDS = 3.0
READY = "document.body?.dataset.ready"
# Of the pictures in the window: there is one, and each is decoded.
SHOWN = """(() => {
  const seen = [...document.images].filter((image) => image.getBoundingClientRect().top < innerHeight);
  return seen.length > 0 && seen.every((image) => image.complete && image.naturalWidth > 0);
})()"""
# From the input to the frame after the one that draws it.
FILTER = """new Promise((done) => {
  const start = performance.now(), slider = document.getElementById("score");
  slider.value = 0.2;
  slider.dispatchEvent(new Event("input"));
  requestAnimationFrame(() => requestAnimationFrame(() => done((performance.now() - start) / 1000)));
})"""


def generated(folder: Path, images: int, seed: int = 0) -> tuple[Split, Results]:
    """A split with its picture files, and detections on it: half of them near a box, most of those of its class."""
    random = np.random.default_rng(seed)
    names = [f"{index:012d}.jpg" for index in range(images)]
    for index, name in enumerate(names):
        if index < DIFFERENT_FILES:
            coarse = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(
                folder / name, quality=85
            )
        else:
            os.link(folder / names[index % DIFFERENT_FILES], folder / name)
    count = round(images * BOXES_AN_IMAGE)
    corner, size = (
        random.random((count, 2)) * (WIDTH * 0.7, HEIGHT * 0.7),
        random.random((count, 2)) * 180 + 8,
    )
    owners, classes = np.sort(random.integers(0, images, count)), random.integers(1, CLASSES + 1, count)
    xywh = np.concatenate((corner, np.minimum(size, (WIDTH, HEIGHT) - corner)), axis=1)
    boxes = Boxes(xywh, classes, xywh[:, 2] * xywh[:, 3], random.random(count) < 0.01)
    entries = Images.of(((index + 1, name, WIDTH, HEIGHT) for index, name in enumerate(names)), folder)
    categories = [Category(index, f"class {index}") for index in range(1, CLASSES + 1)]
    split = Split.of(folder / "annotations.json", categories, entries, boxes, owners)

    found = images * DETECTIONS_AN_IMAGE
    near = random.integers(0, count, found)
    there = random.random(found) < 0.5
    moved = xywh[near] + random.normal(0, 12, (found, 4)) * (random.random((found, 1)) < 0.7)
    bbox = np.where(there[:, None], moved, np.roll(xywh[near], 1, axis=0)).clip(1)
    right = random.random(found) < 0.8
    category = np.where(right, classes[near], random.integers(1, CLASSES + 1, found))
    score = random.beta(1, 3, found) * 0.95 + 0.05
    return split, Results(owners[near] + 1, category, bbox, score).by_image()


def opened(browser: Chromium, page: Path) -> dict[str, float]:
    """Seconds of one opening: until the page is drawn and until its pictures are shown; and of a step of the slider."""
    browser.call("Page.navigate", url=page.as_uri())
    browser.wait(READY)
    browser.wait(SHOWN)
    shown = browser.evaluate("performance.now() / 1000")
    return {
        "drawn": int(browser.evaluate(READY)) / 1000,
        "shown": shown,
        "filter": browser.evaluate(FILTER),
        "heap_mb": browser.evaluate("performance.memory.usedJSHeapSize / 1e6"),
    }


def measure(folder: Path, images: int, rounds: int, program: str) -> Iterator[Number]:
    """Of the writing once; of the opening the median of the rounds, and of what has a bar the worst."""
    split, results = generated(folder, images)
    page = folder / "browse.html"
    start = time.perf_counter()
    BrowsePage("browse_scale", split, results).write(page)
    written = time.perf_counter() - start
    yield Number("written", written, "s", f"{len(split.boxes):,} boxes, {len(results):,} detections")
    yield Number("the page", page.stat().st_size / 1e6, "MB")
    rows = []
    for _ in range(rounds):
        with chromium(program) as browser:
            version = browser.call("Browser.getVersion")["product"]
            rows.append(opened(browser, page))
    middle = {name: median(row[name] for row in rows) for name in rows[0]}
    worst = max(row["shown"] for row in rows)
    yield Number("opened, drawn", middle["drawn"], "s", f"median of {rounds} openings in {version}")
    yield Number("opened, pictures shown", middle["shown"], "s", "median")
    yield Number("opened, pictures shown, worst", worst, "s", limit=MOST_SECONDS)
    yield Number("a step of the score's slider", middle["filter"], "s", "until the frame after")
    yield Number("JavaScript's memory", middle["heap_mb"], "MB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, with missed bars too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.browse_scale", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("runs/bench/browse_scale.json"))
    parser.add_argument("--images", type=int, default=5000, metavar="N")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="an empty folder for pictures and page")
    options = parser.parse_args(arguments)
    program = executable()
    if program is None:
        raise InputError("browse_scale: expected chromium or google-chrome on PATH")
    result = Result(describe(torch.device("cpu")), f"{options.images} images, {CLASSES} categories")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        result.collect(measure(folder, options.images, options.rounds, program), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
