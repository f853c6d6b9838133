"""The loader alone, beside the model that it feeds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.data_scale.child import reports_of
from benchmarks.data_scale.rows import Number
from benchmarks.training_step.program import Job, run_program

TIMES_THE_MODEL = 1.2
# What a GPU trains on, ResNet-50 at 800 px (benchmarks/results/h100_training: an H100, compiled).
GPU_IMAGES_PER_S = 252.0


@dataclass(frozen=True)
class Work:
    """A model on this machine's CPU, and how many of its steps are timed."""

    name: str
    recipe: dict[str, Any]  # what differs from the recipe `coco`
    steps: int
    loaded_steps: int  # of the loader alone


WORKS = (
    Work(
        "resnet18, 320 px", {"arch": "resnet18", "min_size": [320], "max_size": 533, "batch_size": 8}, 6, 120
    ),
    Work("resnet50, 800 px", {"batch_size": 2}, 3, 480),
)


def measure(data: Path, cores: int) -> Iterator[Number]:
    """Rates of the model, of its loader in place, and of loaders with a worker for each core."""
    for work in WORKS:
        model, share = model_rate(data, work)
        yield Number(
            f"loader/{work.name}, the model", model, "images/s", f"data takes {share:.1%} of its step"
        )
        in_place = loading_rate(data, work, 0)
        yield Number(
            f"loader/{work.name}, in place", in_place / model, "x",
            f"{in_place:.0f} images/s on one core, as it is used on a CPU", TIMES_THE_MODEL, at_least=True,
        )  # fmt: skip
        workers = loading_rate(data, work, cores)
        yield Number(
            f"loader/{work.name}, {cores} workers", workers / model, "x",
            f"{workers:.0f} images/s on {cores} cores", TIMES_THE_MODEL, at_least=True,
        )  # fmt: skip
    packed = loading_rate(data, WORKS[-1], cores, device="cuda", batch_size=16) / cores
    yield Number("loader/packed for a GPU", packed, "images/s", "batches of 16 COCO images, a core")
    needed = TIMES_THE_MODEL * GPU_IMAGES_PER_S / packed
    yield Number(
        "loader/cores for an H100", needed, "", f"{TIMES_THE_MODEL:g}x {GPU_IMAGES_PER_S:g} images/s"
    )


def model_rate(data: Path, work: Work) -> tuple[float, float]:
    """Images per second of the program's steps without the time that they wait for data; and that time's share."""
    recipe = dict(work.recipe)
    size = f"{recipe.pop('min_size', [800])[0]}x{recipe.pop('max_size', 1333)}"
    flags = [word for name, value in recipe.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    extra = ("--device", "cpu", "--image-size", size, *flags)
    job = Job(data, "coco", epochs=2, steps=work.steps, eval_images=1, extra=extra)
    with tempfile.TemporaryDirectory() as folder:
        run = run_program(job, Path(folder) / "run")
    waiting = run.times["data"]
    return job.epochs * job.steps * recipe["batch_size"] / (run.seconds - waiting), waiting / run.seconds


def loading_rate(data: Path, work: Work, workers: int, device: str = "cpu", **values: Any) -> float:
    """Images per second of a loader that nothing waits for; the first batch is not counted."""
    words = [
        "benchmarks.data_scale.loading_process",
        "--data",
        str(data),
        "--device",
        device,
        "--reports",
        "1",
    ]
    recipe = {**work.recipe, "workers": workers, **values}
    steps = max(10, work.loaded_steps * work.recipe["batch_size"] // recipe["batch_size"])
    last = reports_of([*words, "--steps", str(steps), "--values", json.dumps(recipe)])[-1]
    return float(last["images"] / last["seconds"])
