"""One of the processes of a shared evaluation: started by ``test_shared_evaluation.py``, which reads what it prints."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tiny_run import tiny_model, tiny_recipe
from torch.distributed.distributed_c10d import _set_pg_timeout

from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems, Stopped
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.evaluation.results import Detected
from retinanet_fast.engine.processes import Processes, joined

CPU = torch.device("cpu")
# Shares of 7 images: even and uneven, of several batches and of none for the second process.
BATCH_SIZES = (1, 2, 3, 7)


def split_of(folder: Path, count: int | None = None) -> Split:
    location = locate(folder, "val")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    return split if count is None else split.first(count)


def detections(
    split: Split, processes: Processes, batch_size: int, problems: Problems | None = None, **options: Any
) -> Detected | None:
    """Of a fresh tiny model: every candidate is one. Batch norm's statistics are the process's own, as in training."""
    model = tiny_model().eval()
    for buffer in model.buffers():
        buffer += processes.rank
    model.score_thresh = 0.0
    recipe = tiny_recipe(workers=0)
    problems = problems or Problems(skip=True)
    return detect(
        model, split, split.categories, recipe, CPU, problems, processes, batch_size=batch_size, **options
    )


def as_json(found: Detected) -> dict[str, Any]:
    """Without the speed; json keeps every bit of a double."""
    return {"results": found.results.to_list(), "image_ids": found.image_ids}


def all_cases(folder: Path, bad: Path, processes: Processes) -> dict[str, Any] | None:
    """What this process, with the others, finds in each case; None where it is not the main one."""
    problems = Problems(skip=True)
    found = {
        **{f"batch {size}": detections(split_of(folder), processes, size) for size in BATCH_SIZES},
        "one image": detections(split_of(folder, 1), processes, 2),
        "bad image": detections(split_of(bad), processes, 2, problems),
    }
    if not processes.is_main:
        assert set(found.values()) == {None}
        return None
    return {
        **{name: as_json(case) for name, case in found.items() if case is not None},
        "told": problems.messages,
    }


def errors(folder: Path, bad: Path, processes: Processes) -> list[str]:
    """What is raised here where one process has something to raise."""

    def stop() -> None:
        if processes.rank == 1:
            raise Stopped(signal.SIGTERM, "asked to")

    def defect() -> None:
        if processes.rank == 1:
            raise ZeroDivisionError

    calls: list[Callable[[], Any]] = [
        lambda: detections(split_of(bad), processes, 1, Problems(skip=False)),
        lambda: detections(split_of(folder), processes, 1, stop=stop),
        lambda: detections(split_of(folder), processes, 1, stop=defect),
        lambda: detections(split_of(bad, 0), processes, 1),
    ]
    raised = []
    for call in calls:
        try:
            call()
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")
    return raised


def main(what: str, folder: Path, bad: Path) -> None:
    torch.set_num_threads(1)
    with joined(CPU) as processes:
        if what == "cases":
            print(json.dumps(all_cases(folder, bad, processes)))
        elif what == "errors":
            print(json.dumps(errors(folder, bad, processes)))
        elif what == "busy":  # the main process works for longer than a collective call waits
            processes.gather(None)  # all have joined, however busy the machine
            _set_pg_timeout(timedelta(seconds=2))
            with processes.patiently():
                time.sleep(5 if processes.is_main else 0)
            print(json.dumps(processes.share(processes.rank)))
        elif what == "killed":
            processes.gather(None)  # all have joined
            with processes.patiently():
                if processes.is_main:
                    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
