"""What training loses while a process of its own scores the epoch before (the recipe's `score_beside`).

    python -m benchmarks.scoring_beside --out FILE [--images 5000] [--categories 80] [--detections 440000]

The program's own steps on rendered images, and its own process with a generated evaluation of COCO's size. In pairs of
windows the process stands still (SIGSTOP) in one and works in the other, so that what else the machine does is in both.
Lost is how much longer a step takes while the process works; the median over the pairs.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.environment import describe
from benchmarks.numbers import Number, Result
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.results import Detected, Results, save_detected
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.page import Page
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.records import epoch_record, with_numbers
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.score_process import Job, ScoreProcess
from retinanet_fast.engine.training.step import TrainStep
from retinanet_fast.engine.training.train import make_state

MOST_LOST = 0.05
WARM_UP_STEPS = 5
BOXES_PER_IMAGE = 7  # COCO's mean


@dataclass
class Figures:
    """Seconds, but for the counts.

    Attributes:
        lost: the share by which a step takes longer while the process works.
        scoring: of the process, while it did not stand still; None where it did not come to its end in the time given.
        scoring_cpu: of one core, of which it used so much.
        in_place: what it saves: the same work in the run's process.
        hand_over: what stays with the run's process: to write the detections, to start the other, to take its files.
    """

    step_alone: float
    step_beside: float
    lost: float
    pairs: int
    scoring: float | None
    scoring_cpu: float
    in_place: float
    hand_over: float


def evaluation(folder: Path, images: int, categories: int, detections: int) -> tuple[Split, Detected]:
    """A generated evaluation of that size on the few pictures in ``folder``; most of the truth is found."""
    random = np.random.default_rng(0)
    names = sorted(path.name for path in folder.iterdir())
    size = RenderOptions().size
    entries = ((index + 1, names[index % len(names)], size, size) for index in range(images))
    owners = random.integers(0, images, images * BOXES_PER_IMAGE)
    count = len(owners)
    extents = random.uniform(4, size / 2, (count, 2))
    corners = random.uniform(0, 1, (count, 2)) * (size - extents)
    boxes = Boxes(
        np.concatenate((corners, extents), axis=1),
        random.integers(1, categories + 1, count),
        extents.prod(axis=1),
        np.zeros(count, dtype=bool),
    )
    known = [Category(index, f"category {index}") for index in range(1, categories + 1)]
    split = Split.of(folder / "generated.json", known, Images.of(entries, folder), boxes, owners)
    of = random.integers(0, count, detections)  # which box each detection is near
    near = np.concatenate((corners, extents), axis=1)[of] + random.normal(0, 3, (detections, 4))
    near[:, 2:] = near[:, 2:].clip(1)
    results = Results(owners[of] + 1, boxes.category_ids[of], near, random.uniform(0.05, 1, detections))
    return split, Detected(results.by_image(), list(range(1, images + 1)), 100.0, epoch=1)


def steps(run: Run) -> Iterator[float]:
    """The program's own steps, endlessly; yields the seconds of each."""
    dataset = CocoDataset(run.train_split, run.train_split.categories, run.recipe)
    order = TrainOrder(dataset.images, run.recipe)
    run.steps_per_epoch = order.steps_per_epoch
    run.state = make_state(run, build_model(run.recipe, len(run.train_split.categories) + 1))
    run.state.model.train()
    batches = train_batches(dataset, order, run.recipe, run.device, first_step=0, last_step=10**6)
    step = TrainStep(run)
    before = time.perf_counter()
    for shares in DevicePrefetcher(batches, run.device):
        found = step(shares, 1e-4).tolist()
        run.state.step += 1
        run.state.loss_names = step.names
        run.state.epoch_losses.append(found[: len(step.names)])
        now = time.perf_counter()
        yield now - before
        before = now


def measure(run: Run, window: float, limit: float) -> Figures:
    """All figures; ``window`` is the seconds of each, ``limit`` those after which the process is given up."""
    trained = steps(run)
    for _ in itertools.islice(trained, WARM_UP_STEPS):
        pass
    assert run.val_split is not None
    assert run.detected is not None
    folder = RunFolder(run.out)
    record = {**epoch_record(run, 8, 1.0), "epoch": 1, "eval_images_per_second": 100.0, "times": {}}
    page, used = Page(folder), resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    save_detected(folder.detections, run.detected)
    job = Job(
        "run", run.recipe, run.train_split, run.val_split, [record], folder.detections, [page.drawing()], []
    )
    process = ScoreProcess(job)
    hand_over = time.perf_counter() - started
    pairs, beside = [], 0.0
    began = time.perf_counter()
    while not process.is_done() and time.perf_counter() - began < limit:
        os.kill(process.pid, signal.SIGSTOP)
        alone = _window(trained, window)
        os.kill(process.pid, signal.SIGCONT)
        started = time.perf_counter()
        both = _window(trained, window, process)
        beside += time.perf_counter() - started
        if not process.is_done():  # a window that it did not fill says less
            pairs.append((alone, both))
    done = process.is_done()
    started = time.perf_counter()
    if done:
        process.result()
    process.close()
    hand_over += time.perf_counter() - started
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    run.evaluation = run.score()
    run.history = [with_numbers(record, run.evaluation.numbers)]
    page.each_epoch(run, run.history[-1])
    in_place = time.perf_counter() - started
    return Figures(
        step_alone=median(alone for alone, _ in pairs),
        step_beside=median(both for _, both in pairs),
        lost=median(both / alone for alone, both in pairs) - 1,
        pairs=len(pairs),
        scoring=beside if done else None,
        scoring_cpu=now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime,
        in_place=in_place,
        hand_over=hand_over,
    )


def _window(trained: Iterator[float], seconds: float, process: ScoreProcess | None = None) -> float:
    """The mean seconds of the steps of a window, which ends where the process does."""
    found: list[float] = []
    while sum(found) < seconds and not (found and process is not None and process.is_done()):
        found.append(next(trained))
    return sum(found) / len(found)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, with missed bars too."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scoring_beside", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("runs/bench/scoring_beside.json"))
    parser.add_argument("--images", type=int, default=5_000)
    parser.add_argument("--categories", type=int, default=80)
    parser.add_argument("--detections", type=int, default=440_000)
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=256, help="pixels of the training images' sides")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--window", type=float, default=5.0, help="seconds of steps in each window")
    parser.add_argument(
        "--limit", type=float, default=600.0, help="seconds after which the rest is not waited for"
    )
    options = parser.parse_args(arguments)
    recipe = Recipe(
        arch=options.arch, min_size=[options.size], max_size=options.size, batch_size=options.batch_size
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_data_set(folder, RenderOptions(train=64, val=12))
        location = locate(folder, "train")
        assert location is not None
        train = read_split(location, Problems(skip=False))
        split, found = evaluation(
            folder / "images" / "val", options.images, options.categories, options.detections
        )
        run = Run(recipe, train, split, folder / "run", torch.device("cpu"), Problems(skip=False))
        run.detected = found
        figures = measure(run, options.window, options.limit)
    what = (
        f"{options.images} images, {options.categories} categories, {options.detections} detections; training: "
        f"{options.arch}, {options.size} px, {options.batch_size} images a step"
    )
    Result(describe(run.device), what).collect(numbers_of(figures), options.out)
    return 0


def numbers_of(figures: Figures) -> list[Number]:
    """The figures as they are written."""
    scoring = figures.scoring if figures.scoring is not None else math.inf
    return [
        Number("a step alone", figures.step_alone, "s", f"median of {figures.pairs} pairs of windows"),
        Number("a step beside scoring", figures.step_beside, "s"),
        Number("training lost", figures.lost, "%", "of a step's time, both cores busy", MOST_LOST),
        Number("scoring beside", scoring, "s", f"of which it had {figures.scoring_cpu:.1f} s of a core"),
        Number("scoring in place", figures.in_place, "s", "what it saves"),
        Number("hand over", figures.hand_over, "s", "what stays with the run's process"),
    ]


if __name__ == "__main__":
    sys.exit(main())
