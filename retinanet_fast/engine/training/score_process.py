"""A process of its own that scores an evaluated epoch, COCO's numbers and the pictures, while the next one trains.

It has a low priority and one thread: it takes what training leaves of the cores, and hardly more.
Of the run's folder it reads the detections; what it draws goes to a folder of its own.
"""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import retinanet_fast
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation
from retinanet_fast.engine.evaluation.results import load_detected
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.hooks import Drawing
from retinanet_fast.engine.training.records import with_numbers
from retinanet_fast.engine.training.run import Run

# Before anything is imported, which takes a second of one core: the priority, and Ctrl-C, which is the run's to heed.
# The package is the run's, whatever else of this name the search path has.
START = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
if hasattr(os, "nice"):
    os.nice({nice})
sys.path.insert(0, {package!r})
import retinanet_fast
del sys.path[0]
from retinanet_fast.engine.training.score_process import main
main()
"""
# Linux gives such a process 36 parts of a core to the 1,024 of one of usual priority: training that keeps every core
# busy loses 3.4% at most. A lower priority would starve it on a machine that others keep busy.
NICE = 15
PACKAGE = str(Path(retinanet_fast.__file__).resolve().parents[1])
# Of every library that has a pool of threads; and no context on a GPU.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"),
    "CUDA_VISIBLE_DEVICES": "",
}
# Seconds after which the process notices that the run's is gone.
POLL = 1.0
JOB, RESULT, ERRORS, DRAWN = "job", "result", "errors", "drawn"


@dataclass
class Job:
    """What is to be scored: the last record of ``history`` has no numbers yet.

    Attributes:
        name: of the run's folder.
        detections: the file with those of the epoch.
        drawings: called when the numbers are there.
        environment: of the run's process.
    """

    name: str
    recipe: Recipe
    train_split: Split
    val_split: Split
    history: list[dict[str, Any]]
    detections: Path
    drawings: Sequence[Drawing]
    environment: list[tuple[str, str]]
    working_folder: str = field(default_factory=os.getcwd)
    parent: int = field(default_factory=os.getpid)


class ScoringError(Exception):
    """The process ended without a result."""


class ScoreProcess:
    """Starts the process with a job.

    Raises:
        OSError: the system cannot start it.
    """

    def __init__(self, job: Job) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="retinanet_fast-"))
        self._drawn = self.folder / DRAWN / job.name
        try:
            (self.folder / JOB).write_bytes(pickle.dumps(job))
            paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
            with (self.folder / ERRORS).open("wb") as errors:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", START.format(nice=NICE, package=PACKAGE)],
                    cwd=self.folder,
                    env={**os.environ, **ENVIRONMENT, "PYTHONPATH": paths},
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    creationflags=getattr(subprocess, "IDLE_PRIORITY_CLASS", 0),  # on Windows
                )
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def is_done(self) -> bool:
        """Whether the process has ended, in whatever way."""
        return self._process.poll() is not None

    def result(self) -> tuple[Evaluation, dict[str, bytes]]:
        """The numbers, and each file that was drawn, by its path in the run's folder. Waits for the process.

        Raises:
            ScoringError: there are none; it says why in one line.
        """
        code = self._process.wait()
        if code != 0:
            errors = (self.folder / ERRORS).read_text(errors="replace").split("\n")
            last = next((line for line in reversed(errors) if line.strip()), f"exit code {code}")
            raise ScoringError(f"killed by signal {-code}" if code < 0 else last)
        evaluation: Evaluation = pickle.loads((self.folder / RESULT).read_bytes())
        files = (path for path in self._drawn.rglob("*") if path.is_file())
        return evaluation, {path.relative_to(self._drawn).as_posix(): path.read_bytes() for path in files}

    def close(self) -> None:
        """End the process where it has not ended, and remove its folder."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def main() -> None:
    """What the process does, in its folder."""
    folder = Path.cwd()
    job: Job = pickle.loads((folder / JOB).read_bytes())
    (folder / JOB).unlink()  # it holds the data set, and its reader may be killed
    threading.Thread(target=_end_with_run, args=(job.parent, folder), daemon=True).start()
    os.chdir(job.working_folder)  # paths may be relative to it
    run = Run(
        job.recipe,
        job.train_split,
        job.val_split,
        folder / DRAWN / job.name,
        torch.device("cpu"),
        Problems(skip=True),
        history=job.history,
        environment=job.environment,
    )
    run.detected = load_detected(job.detections)
    run.evaluation = run.score()
    run.history[-1] = with_numbers(run.history[-1], run.evaluation.numbers)
    for drawing in job.drawings:
        drawing(run, run.out)
    (folder / RESULT).write_bytes(pickle.dumps(run.evaluation))


def _end_with_run(parent: int, folder: Path) -> None:
    """End this process when the run's is gone, which a killed one has no time to tell."""
    while os.getppid() == parent:
        time.sleep(POLL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
