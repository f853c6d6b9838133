"""The processes that load images: signals are the main process's, and none outlives it."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import data_sets
import pytest
from torch.utils.data import DataLoader, Dataset

from retinanet_fast.engine.data.loader import read

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and signals are those of Linux")

# Trains on nothing: prints its workers, then each batch's step, slowly; tells of each signal.
PROGRAM = """
import multiprocessing, signal, sys, time
from pathlib import Path

import torch

from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import train_batches
from retinanet_fast.engine.data.order import TrainOrder
from retinanet_fast.engine.errors import Problems, TrainingError
from retinanet_fast.engine.recipe import Recipe

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: print("signal", number, flush=True))
    recipe = Recipe(batch_size=2, workers=2, min_size=[40], max_size=80)
    split = read_split(locate(Path(sys.argv[1]), "train"), Problems(False))
    dataset = CocoDataset(split, split.categories, recipe)
    order = TrainOrder(dataset.images, recipe)
    batches = train_batches(dataset, order, recipe, torch.device("cpu"), first_step=0, last_step=100_000)
    try:
        for step, _ in enumerate(batches):
            if step == 0:
                print("workers", *(child.pid for child in multiprocessing.active_children()), flush=True)
            print("step", step, flush=True)
            time.sleep(0.05)
            if step == int(sys.argv[2]):
                break  # the batches are left as they are
    except TrainingError as error:
        print("error", error, flush=True)
    print("end", flush=True)
"""


Start = Callable[..., tuple["subprocess.Popen[str]", list[int]]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the program in a group of processes of its own, which does not outlive the test; gives it and its
    workers."""
    data_sets.with_squares(tmp_path / "data", 6)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    started: list[subprocess.Popen[str]] = []

    def run(steps: int = 100_000, method: str = "fork") -> tuple[subprocess.Popen[str], list[int]]:
        process = subprocess.Popen(
            [sys.executable, str(program), str(tmp_path / "data"), str(steps), method],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        started.append(process)
        workers = [int(word) for word in next(lines(process, "workers")).split()[1:]]
        assert len(workers) == 2
        return process, workers

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lines(process: subprocess.Popen[str], word: str) -> Iterator[str]:
    """The lines of its output that begin with a word."""
    assert process.stdout is not None
    return (line.strip() for line in process.stdout if line.startswith(word))


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended, but was not waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], seconds: float = 20.0) -> list[int]:
    """The processes that still run after so many seconds, far more than they need."""
    until = time.monotonic() + seconds
    while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    return left


# How processes start on Linux: before Python 3.14, and from then on.
METHODS = ["fork", "forkserver"]


@pytest.mark.parametrize("method", METHODS)
def test_signals_to_the_whole_group_leave_the_workers_at_work(start: Start, method: str) -> None:
    process, workers = start(method=method)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, number)
        assert next(lines(process, "signal")) == f"signal {int(number)}"
        steps = lines(process, "step")
        for _ in range(12):  # more than were loaded ahead
            next(steps)
        assert all(alive(pid) for pid in workers)


@pytest.mark.parametrize("method", METHODS)
def test_workers_end_when_the_main_process_is_killed(start: Start, method: str) -> None:
    process, workers = start(method=method)
    process.kill()
    assert wait_until_gone(workers) == []


def test_workers_end_with_a_program_that_ends_in_the_midst(start: Start) -> None:
    process, workers = start(steps=3)
    assert next(lines(process, "end")) == "end"
    assert process.wait(30) == 0
    assert wait_until_gone(workers) == []


def test_a_killed_worker_is_an_error_of_one_line(start: Start) -> None:
    process, workers = start()
    os.kill(workers[0], signal.SIGKILL)
    message = next(lines(process, "error"))
    assert message.startswith("error a process that loads images ended: DataLoader worker")
    assert next(lines(process, "end")) == "end"
    assert wait_until_gone(workers) == []


class Frozen(Dataset[int]):
    """How many objects the process that is asked leaves out of its garbage collections."""

    def __getitem__(self, index: int) -> int:
        return gc.get_freeze_count()

    def __len__(self) -> int:
        return 4


def test_forked_workers_do_not_collect_what_the_main_process_had() -> None:
    """A collection writes to each object that it looks at: each worker would copy most of the main process."""
    objects = len(gc.get_objects())
    loader = DataLoader(Frozen(), 1, collate_fn=sum, num_workers=2, multiprocessing_context="fork")
    counts = list(read(loader))
    assert all(count > objects / 2 for count in counts)
    assert gc.get_freeze_count() == 0  # here they are collected as ever
