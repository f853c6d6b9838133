"""`python -m benchmarks.gpu_check.training_steps --json FILE`: the trainer's own step, 50 times without a wait of the
host for the GPU (torch.cuda.set_sync_debug_mode("error")), one by one and as a CUDA graph; images a second, memory."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.inputs import ground_truth
from benchmarks.providers import one_line
from benchmarks.report import write_whole
from retinanet_fast import synchronize_errors
from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.graphed import WARM_UP, GraphedStep
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.readback import Readback
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import TrainStep
from retinanet_fast.engine.training.train import make_state
from retinanet_fast.nn import pad_targets

STEPS = 50
CLASSES, BOXES, ROWS = 91, 20, 64
RAW = ((640, 640), (600, 600))  # of the images as they are read; all are resized to one size
RECIPE = Recipe(
    arch="resnet50", min_size=[800], max_size=800, batch_size=16, precision="bfloat16", clip_norm=10.0
)
SMALL = RECIPE.replace(arch="resnet18", fpn_channels=16, min_size=[64], max_size=64, batch_size=2)
KINDS = {"eager": TrainStep, "cuda_graph": GraphedStep}


def batches(recipe: Recipe, pinned: bool) -> Iterator[list[Batch]]:
    """Two batches in turn, without end, as the loader hands them out."""
    generator = torch.Generator().manual_seed(0)
    side = recipe.min_size[-1]
    transform = build_model(SMALL.replace(min_size=[side], max_size=side), 2).transform
    made = []
    for size in RAW:
        images = [
            torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator)
            for _ in range(recipe.batch_size)
        ]
        boxes = ground_truth(recipe.batch_size, BOXES, min(size), generator)
        labels = torch.randint(1, CLASSES, (recipe.batch_size, BOXES), generator=generator)
        targets = pad_targets([{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)], ROWS)
        batch = Batch(images, targets, transform.batch_sizes(images), list(range(recipe.batch_size))).pack()
        made.append([batch.pin_memory() if pinned else batch])
    return itertools.cycle(made)


def measure(kind: str, recipe: Recipe, device: torch.device, steps: int) -> dict[str, Any]:
    """The loop of the trainer, without data, hooks and checkpoints."""
    nowhere = Path("nowhere")
    run = Run(recipe, Split.of(nowhere, []), None, nowhere, device, Problems(False))
    torch.manual_seed(0)
    run.state = make_state(run, build_model(recipe, CLASSES))
    run.state.model.train()
    step, readback = KINDS[kind](run), Readback[int](device)
    source = DevicePrefetcher(batches(recipe, pinned=device.type == "cuda"), device)
    found: list[list[float]] = []
    before = [weight.detach().clone() for weight in step.parameters]

    def go(count: int) -> None:
        for _ in range(count):
            readback.push(run.state.step, step(next(source), 1e-3, (False, False)))
            run.state.step += 1
            found.extend(values for _, values in readback.due())

    go(WARM_UP + 2)  # with the capture
    wait(device)
    begin = time.perf_counter()
    with no_synchronisation(device):
        go(steps)
    wait(device)
    seconds = time.perf_counter() - begin
    synchronize_errors()
    found.extend(values for _, values in readback.rest())
    if not all(torch.tensor(found).isfinite().all(1)):
        raise AssertionError("a loss is not finite")
    if any(torch.equal(old, new) for old, new in zip(before, step.parameters, strict=True)):
        raise AssertionError("a weight has not changed")
    return {
        "steps": steps,
        "images_per_s": round(steps * recipe.batch_size / seconds, 1),
        "ms_per_step": round(1e3 * seconds / steps, 2),
        "memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
        "loss": [found[0][:2], found[-1][:2]],
    }


@contextmanager
def no_synchronisation(device: torch.device) -> Iterator[None]:
    """On a GPU, a wait of the host for it is an error."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check.training_steps", description=__doc__)
    parse.add_argument("--json", type=Path, required=True)
    parse.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parse.add_argument("--steps", type=int, default=STEPS)
    parse.add_argument("--small", action="store_true", help="a tiny model: does it run?")
    options = parse.parse_args(arguments)
    recipe = SMALL if options.small else RECIPE
    measured: dict[str, Any] = {}
    for kind in KINDS if options.device.type == "cuda" else ("eager",):
        try:
            if options.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            measured[kind] = measure(kind, recipe, options.device, options.steps)
            print(f"training {kind}: {measured[kind]}", flush=True)
        except Exception as error:  # the other kind is worth as much
            measured[kind] = {"error": one_line(error)}
            traceback.print_exc(file=sys.stdout)  # which line waited
            print(f"training {kind}: FAILED: {one_line(error)}", flush=True)
        write_whole(options.json, (json.dumps(measured, indent=1) + "\n").encode())
        gc.collect()  # the first model's memory
    return int(any("error" in found for found in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
