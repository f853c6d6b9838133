"""The memory of a loader's process set over an epoch: what a large data set's annotations add, and whether it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.data_scale.child import reports_of
from benchmarks.numbers import Number

WORKERS = 8
ADDED_LIMIT, CHANGE_LIMIT = 200.0, 0.05
# By then every worker has loaded several batches, and has what it keeps.
SETTLED = 0.1
TINY_STEPS = 600


def measure(data: Path, tiny: Path) -> Iterator[Number]:
    """An epoch of ``data`` and some steps of ``tiny``, which has the same pictures, by as many workers."""
    base = loading(tiny, TINY_STEPS)
    full = loading(data, 0)
    read, reports = full[0], full[1:]
    settled = [report for report in reports if report["step"] >= SETTLED * reports[-1]["step"]]
    sizes = [report["pss"]["Pss"] for report in settled]
    alone = base[-1]["pss"]["Pss"]
    images = f"{read['images']:,} images"
    yield Number(
        "memory/annotations", max(sizes) - alone, "MB",
        f"PSS of main process and {WORKERS} workers, its largest over an epoch of {images}, less that with "
        f"{base[0]['images']} images", ADDED_LIMIT,
    )  # fmt: skip
    yield Number(
        "memory/change over an epoch", max(sizes) / min(sizes) - 1, "%",
        f"PSS, the largest over the least, from {SETTLED:.0%} of the epoch on", CHANGE_LIMIT,
    )  # fmt: skip
    yield Number("memory/process set", max(sizes), "MB", f"PSS in all, {WORKERS} workers, {images}")
    yield Number("memory/process set, tiny data", alone, "MB", "the same with a tiny data set")
    yield Number(
        "memory/peak while reading", read["peak"], "MB", "resident set of the main process: the json too"
    )


def loading(data: Path, steps: int) -> list[dict[str, Any]]:
    """What ``loading_process`` says of a data set, report by report."""
    values = json.dumps({"workers": WORKERS})
    words = ["benchmarks.data_scale.loading_process", "--data", str(data), "--steps", str(steps)]
    return reports_of([*words, "--values", values])
