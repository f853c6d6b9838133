"""A prediction that kills itself at a moment that it is told, alone or as one of two processes. Started by
``test_killed_predictions.py``."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # loaded now, not by the first process
from tiny_run import tiny_model, tiny_recipe

from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.prediction.predict import Predictions, PredictOptions, predict
from retinanet_fast.engine.prediction.sources import list_pictures
from retinanet_fast.engine.processes import Processes, joined

CATEGORIES = [Category(2, "cat"), Category(5, "dog"), Category(9, "fox")]
# Where a prediction touches its files; it is killed before such a call, after it, or, writing, in its midst.
FILE_CALLS = ("open", "write", "replace", "fsync", "unlink")
CPU = torch.device("cpu")


def found_on(
    words: list[str], out: Path, processes: Processes | None = None, workers: int = 0, **options: Any
) -> Predictions | None:
    """The detections of a tiny model, for which every candidate is one; bad pictures are left out."""
    model = tiny_model().eval()
    model.score_thresh, model.detections_per_img = 0.0, 5
    pictures = list_pictures(words, out)
    wanted = PredictOptions(out, score=0.0, **{"batch_size": 2, **options})
    return predict(
        model, CATEGORIES, tiny_recipe(workers=workers), pictures, wanted, Problems(skip=True), processes
    )


def until_killed(
    folder: Path, out: Path, workers: int, seconds: float | None = None, file_call: int | None = None
) -> None:
    """Begin or go on, and be killed after some seconds or at the n-th call for a file."""
    torch.set_num_threads(1)
    if file_call is not None:
        _watch_calls(file_call)
    if seconds is not None:
        threading.Thread(target=_kill_after, args=(seconds,), daemon=True).start()
    found_on([str(folder)], out, workers=workers, resume=True)


def counted(folder: Path, out: Path, result: Path) -> None:
    """An undisturbed prediction; writes how many moments its calls for files have, and the seconds that it takes."""
    torch.set_num_threads(1)
    count, start = _watch_calls(0), time.monotonic()
    found_on([str(folder)], out)
    result.write_text(f"{count[0]} {time.monotonic() - start}")


def one_of_two(folder: Path, out: Path, rank: int, port: int, file_call: int | None) -> None:
    """One of two processes, with the variables that torchrun sets."""
    torch.set_num_threads(1)
    values = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank}
    os.environ.update({name: str(value) for name, value in values.items()})
    with joined(CPU) as processes:
        processes.gather(None)  # both are there
        if file_call is not None:
            _watch_calls(file_call)
        found_on([str(folder)], out, processes, resume=True)


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    _kill()


def _watch_calls(moment: int) -> list[int]:
    """Count the moments before, in, and after each call; be killed at one of them (the first is 1)."""
    count = [0]

    def at_moment(half: Any = None) -> None:
        count[0] += 1
        if count[0] == moment:
            if half is not None:
                half()
            _kill()

    def watched(name: str, function: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            at_moment()
            if name == "write":
                at_moment(lambda: function(args[0], bytes(args[1])[: len(args[1]) // 2]))
            result = function(*args, **keywords)
            at_moment()
            return result

        return call

    for name in FILE_CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    return count


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
