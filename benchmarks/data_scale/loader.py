"""The loader alone, beside the model that it feeds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data_scale.child import reports_of
from benchmarks.numbers import Number
from benchmarks.training_step.program import Job, run_program

TIMES_THE_MODEL = 1.2
# What a GPU trains on, ResNet-50 at 800 px (benchmarks/results/h100_training: an H100, compiled).
GPU_IMAGES_PER_S = 252.0


# On a CPU: small, so that loading matters as much as it can. Values that differ from those of the recipe `coco`.
ON_A_CPU = {"arch": "resnet18", "min_size": [320], "max_size": 533, "batch_size": 8}
STEPS = 6  # of the model, in each of two epochs
LOADED_IMAGES = 960


def measure(data: Path, cores: int) -> Iterator[Number]:
    """Rates of the model, and of its loader: in place, and with a worker for each core."""
    model, share = model_rate(data, ON_A_CPU)
    name = "resnet18 at 320 px"
    yield Number(f"loader/{name}, the model", model, "images/s", f"data takes {share:.1%} of its step")
    for workers, where in ((0, "in place"), (cores, f"{cores} workers")):
        rate = loading_rate(data, {**ON_A_CPU, "workers": workers})
        about = f"{rate:.0f} images/s over the model's" + (", as a CPU is fed" if workers == 0 else "")
        yield Number(f"loader/{name}, {where}", rate / model, "x", about, TIMES_THE_MODEL, at_least=True)
    packed = loading_rate(data, {"batch_size": 16, "workers": cores}, device="cuda") / cores
    yield Number("loader/packed for a GPU", packed, "images/s", "a core: COCO's images, 16 in a batch")
    needed = TIMES_THE_MODEL * GPU_IMAGES_PER_S / packed
    about = f"of this machine's, for {TIMES_THE_MODEL:g}x {GPU_IMAGES_PER_S:g} images/s"
    yield Number("loader/cores for an H100", needed, "cores", about)


def model_rate(data: Path, recipe: dict[str, Any]) -> tuple[float, float]:
    """Images per second of the program's steps without the time that they wait for data; and that time's share."""
    size = f"{recipe['min_size'][0]}x{recipe['max_size']}"
    flags = ("--arch", recipe["arch"], "--batch-size", str(recipe["batch_size"]), "--image-size", size)
    job = Job(data, "coco", epochs=2, steps=STEPS, eval_images=1, extra=("--device", "cpu", *flags))
    with tempfile.TemporaryDirectory() as folder:
        run = run_program(job, Path(folder) / "run")
    waiting = run.times["data"]
    return job.epochs * job.steps * recipe["batch_size"] / (run.seconds - waiting), waiting / run.seconds


def loading_rate(data: Path, recipe: dict[str, Any], device: str = "cpu") -> float:
    """Images per second of a loader that nothing waits for; the first batch is not counted."""
    steps = max(10, LOADED_IMAGES // recipe["batch_size"])
    words = ["benchmarks.data_scale.loading_process", "--data", str(data), "--device", device]
    words += ["--steps", str(steps), "--reports", "1", "--values", json.dumps(recipe)]
    last = reports_of(words)[-1]
    return float(last["images"] / last["seconds"])
