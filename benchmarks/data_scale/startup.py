"""Seconds from the start of ``retinanet-fast train`` to the end of its first step."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.data_scale.child import ChildError, drop_caches, lines_of
from benchmarks.data_scale.first_step import DONE
from benchmarks.numbers import Number

COLD_LIMIT, WARM_LIMIT = 60.0, 20.0
# A small model, so that the step itself takes a second at most.
MODEL = ("--arch", "resnet18", "--image-size", "320", "--batch-size", "4", "--device", "cpu")
MILESTONES = {"train:": "data read", DONE: "first step"}


def measure(data: Path, warm_starts: int = 3) -> Iterator[Number]:
    """A cold start: files not in the page cache, nothing remembered of the data. Then warm ones, their median."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        about = drop_caches(list((data / "annotations").iterdir()))
        cold = first_step(data, out)
        yield Number("startup/cold", cold["first step"], "s", about, COLD_LIMIT)
        yield Number("startup/cold, data read", cold["data read"], "s", "of it, until both splits are read")
        warm = [first_step(data, out) for _ in range(warm_starts)]
        seconds = [start["first step"] for start in warm]
        spread = f"median of {warm_starts}: {min(seconds):.1f} to {max(seconds):.1f} s"
        yield Number("startup/warm", statistics.median(seconds), "s", spread, WARM_LIMIT)
        read = statistics.median(start["data read"] for start in warm)
        yield Number("startup/warm, data read", read, "s", "of it, until both splits are read")
        peak = max(start["peak"] for start in warm)
        yield Number(
            "startup/peak memory", peak, "MB", "resident, to the first step's end: torch, json, model"
        )


def first_step(data: Path, folder: Path) -> dict[str, float]:
    """Seconds to each milestone, and the process's peak memory in MB."""
    words = ["benchmarks.data_scale.first_step", "train", "--data", str(data), "--out", str(folder / "run")]
    found: dict[str, float] = {}
    shutil.rmtree(folder / "run", ignore_errors=True)
    for seconds, line in lines_of([*words, *MODEL], {"RETINANET_FAST_CACHE": str(folder / "cache")}):
        for beginning, name in MILESTONES.items():
            if line.startswith(beginning):
                found[name] = seconds
        if line.startswith(DONE):
            found["peak"] = float(line.split()[-2])
    if "first step" not in found:
        raise ChildError(f"expected {DONE!r} of the program, it ended without")
    return found
