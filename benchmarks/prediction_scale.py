"""Prediction over a hundred thousand pictures: how fast beside evaluation, and how much memory as it goes.

    python -m benchmarks.prediction_scale [--out FILE] [--pictures 100000] [--rate-pictures 4000] [--workers N]

The pictures are generated: JPEGs of four shapes of some 160 x 120 pixels, hard links to 16 different ones of each.
The model is a ResNet-18 with a narrow pyramid at 96 pixels, with random weights, that finds 20 boxes on every picture:
so small that reading, packing and writing count. Evaluation is ``detect`` on the same pictures, sorted by their aspect
over the whole set, without the scoring; prediction is all that ``predict --no-draw`` does, COCO's json included.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from benchmarks.data_scale.pictures import write_pictures
from benchmarks.data_scale.pss import process_set, pss
from benchmarks.environment import describe
from benchmarks.numbers import Number, Result
from benchmarks.training_step.program import clean
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import Checkpoint
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.prediction.predict import PredictOptions, predict, restore_model
from retinanet_fast.engine.prediction.sources import list_pictures
from retinanet_fast.engine.recipe import Recipe

SHAPES = ((160, 120), (120, 160), (160, 160), (200, 120))  # width, height
OF_A_SHAPE, OF_A_FOLDER = 16, 1000
CATEGORIES = [Category(index, f"class {index}") for index in range(1, 21)]
RECIPE = Recipe(
    arch="resnet18",
    fpn_channels=64,
    min_size=[96],
    max_size=160,
    batch_size=16,
    score_thresh=0.001,
    topk_candidates=100,
    detections_per_img=20,
)
ROUNDS = 3
SECONDS = 1.0  # between two looks at the memory
FLAT, RATE = 50.0, 0.9  # MB; of evaluation's rate
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, with missed bars too; 1 if the measured program failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prediction_scale",
        description="Measure prediction's rate and memory over generated pictures.",
        epilog="Takes some twenty minutes on two cores.",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("runs/bench/prediction_scale.json"))
    parser.add_argument(
        "--pictures", type=int, default=100_000, metavar="N", help="for the memory (%(default)s)"
    )
    parser.add_argument(
        "--rate-pictures", type=int, default=4000, metavar="N", help="for the rate (%(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=-1, metavar="N", help="processes that read (default: the program's)"
    )
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        names, sizes = _write(Path(folder, "pictures"), max(options.pictures, options.rate_pictures))
        checkpoint = _checkpoint(Path(folder, "model.pt"), options.workers)
        result = Result(
            describe(CPU), f"{options.pictures} pictures of {', '.join(f'{w}x{h}' for w, h in SHAPES)}"
        )
        try:
            rates = _rates(Path(folder), names[: options.rate_pictures], sizes, checkpoint)
            memory = _memory(Path(folder), names[: options.pictures], checkpoint)
            result.collect(itertools.chain(rates, memory), options.out)
        except subprocess.CalledProcessError as error:
            print(f"prediction_scale: {error}", file=sys.stderr)
            return 1
    return 0


def _write(folder: Path, count: int) -> tuple[list[str], np.ndarray]:
    names = [f"{index // OF_A_FOLDER:03d}/{index:06d}.jpg" for index in range(count)]
    generator = np.random.default_rng(0)
    sizes = np.array(SHAPES)[generator.integers(0, len(SHAPES), count)]
    write_pictures(folder, names, sizes, OF_A_SHAPE, generator)
    return names, sizes


def _checkpoint(path: Path, workers: int) -> Checkpoint:
    recipe = RECIPE.replace(workers=workers)
    model = build_model(recipe, len(CATEGORIES) + 1)
    checkpoint = Checkpoint(model.state_dict(), recipe, CATEGORIES, epoch=1)
    checkpoint.save(path)
    return checkpoint


def _rates(folder: Path, names: list[str], sizes: np.ndarray, state: Checkpoint) -> Iterator[Number]:
    """Evaluation and prediction in turns, each timed whole, on the same model."""
    model = restore_model(state, folder / "model.pt", CPU)
    entries = ((index, name, *size) for index, (name, size) in enumerate(zip(names, sizes.tolist())))
    images = Images.of(entries, folder / "pictures")
    split = Split.of(folder, CATEGORIES, images, Boxes.of([]), np.array([], dtype=np.int64))
    pictures = list_pictures(str(images[index].path) for index in range(len(images)))
    rates: dict[str, list[float]] = {"evaluation": [], "prediction": []}
    for number in range(ROUNDS):
        start = time.perf_counter()
        found = detect(model, split, CATEGORIES, state.recipe, CPU, Problems(False))
        rates["evaluation"].append(len(names) / (time.perf_counter() - start))
        assert found is not None
        options = PredictOptions(folder / f"rate-{number}", draw=False)
        start = time.perf_counter()
        done = predict(model, CATEGORIES, state.recipe, pictures, options, Problems(False))
        rates["prediction"].append(len(names) / (time.perf_counter() - start))
        assert done is not None
        assert done.detected == len(found.image_ids) == len(names)
    about = f"{len(names)} pictures, median of {ROUNDS}, in turns"
    for what, values in rates.items():
        yield Number(f"rate/{what}", median(values), "images/s", about)
    ratio = median(rates["prediction"]) / median(rates["evaluation"])
    yield Number("rate/prediction beside evaluation", ratio, "x", "", RATE, at_least=True)


def _memory(folder: Path, names: list[str], state: Checkpoint) -> Iterator[Number]:
    """Of the program in a process of its own: while lines are written, and after, while COCO's json is."""
    (folder / "names.txt").write_text("".join(f"{folder / 'pictures' / name}\n" for name in names))
    out = folder / "memory"
    words = ["predict", "--checkpoint", folder / "model.pt", f"@{folder / 'names.txt'}", "--out", out]
    words += ["--no-draw", "--device", "cpu", "--workers", max(0, state.recipe.workers)]
    command = [sys.executable, "-m", "retinanet_fast", *map(str, words)]
    lines, started = out / "detections.jsonl", time.perf_counter()
    samples: list[tuple[int, dict[str, float]]] = []  # bytes written, MB
    # In a folder that holds no package, which would hide the one that is measured.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=folder, env=clean(os.environ)) as process:
        while process.poll() is None:
            time.sleep(SECONDS)
            written = lines.stat().st_size if lines.exists() else 0
            samples.append((written, pss(process_set(process.pid))))
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds, total = time.perf_counter() - started, lines.stat().st_size
    during = [memory for written, memory in samples if total / 20 <= written < total]
    # Without the pages of files: the libraries', of which a part is counted that changes with other programs.
    own = [memory["Pss"] - memory["Pss_File"] for memory in during]
    ending = [memory["Pss"] - memory["Pss_File"] for written, memory in samples if written == total]
    about = f"PSS of the process set without files' pages, from 5% of {len(names)} pictures on, {len(own)} samples"
    yield Number("memory/most less least", max(own) - min(own), "MB", about, FLAT)
    tenth = max(1, len(own) // 10)
    growth = median(own[-tenth:]) - median(own[:tenth])
    yield Number("memory/last tenth less first", growth, "MB", "the same, medians", FLAT)
    more = max([*ending, 0.0]) - max(own)
    yield Number("memory/at the end, more", more, "MB", "the same, while COCO's json is written", FLAT)
    yield Number("memory/most", max(own), "MB", "the same")
    files = [memory["Pss_File"] for memory in during]
    yield Number("memory/files' pages, most", max(files), "MB", f"least {min(files):.0f} MB")
    yield Number("whole program", len(names) / seconds, "images/s", "start and COCO's json included")
    yield Number("detections.jsonl", total / 1e6, "MB")


if __name__ == "__main__":
    sys.exit(main())
