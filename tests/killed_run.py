"""A training run that kills itself, by SIGKILL, at a moment that it is told. Started by ``test_killed_runs.py``."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer of a process loads it
from tiny_run import finding_model, tiny_run

from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.training import score_process, scoring
from retinanet_fast.engine.training.train import saved_record, train

# Where a run touches its files; it is killed before or after such a call.
FILE_CALLS = ("open", "replace", "fsync", "link", "unlink", "chmod")


def run_until_killed(
    data: Path, out: Path, recipe: Recipe, seconds: float | None = None, file_call: int | None = None
) -> None:
    """Go on with the run in ``out``, or begin it, and be killed after some seconds or at the n-th call for a file."""
    torch.set_num_threads(2)
    _be_prompt()
    if file_call is not None:
        _kill_at(file_call)
    if seconds is not None:
        threading.Thread(target=_kill_after, args=(seconds,), daemon=True).start()
    resume_or_begin(data, out, recipe)


def resume_or_begin(data: Path, out: Path, recipe: Recipe) -> None:
    """What ``retinanet-fast train --resume`` does, with a small model."""
    run = tiny_run(data, out, recipe)
    begun = RunFolder(out).last.is_file()
    if begun:
        run.record = saved_record(out)
    train(run, resume=begun, model=finding_model())


def count_file_calls(data: Path, out: Path, recipe: Recipe, result: Path) -> None:
    """An undisturbed run; writes how many calls for files it makes, and the seconds that it takes."""
    torch.set_num_threads(2)
    _be_prompt()
    counted = _count_calls(lambda count: None)
    start = time.monotonic()
    resume_or_begin(data, out, recipe)
    result.write_text(f"{counted[0]} {time.monotonic() - start}")


def _be_prompt() -> None:
    """Where the run scores beside training: as fast as the machine can, and after every second epoch before the next
    step, so that the numbers come within the next epoch."""
    score_process.NICE = 0
    begin = scoring.Scoring.begin

    def patient_begin(self: scoring.Scoring) -> None:
        begin(self)
        while self.process is not None and self.run.epoch % 2 and not self.process.is_done():
            time.sleep(0.01)

    scoring.Scoring.begin = patient_begin  # type: ignore[method-assign]


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    _kill()


def _kill_at(call: int) -> None:
    """Half of the numbers kill before a call, half after it."""

    def check(count: int) -> None:
        if count == call:
            _kill()

    _count_calls(check)


def _count_calls(check: Any) -> list[int]:
    count = [0]

    def counting(function: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            count[0] += 1
            check(count[0])
            result = function(*args, **keywords)
            count[0] += 1
            check(count[0])
            return result

        return call

    for name in FILE_CALLS:
        setattr(os, name, counting(getattr(os, name)))
    return count


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
