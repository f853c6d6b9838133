"""Runs ``retinanet-fast train`` as its users do, alone and beside busy processes, and reads what it recorded."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import retinanet_fast
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set

# What decides how a process's threads wait and how many there are: the program is to choose both itself.
CHOSEN_BY_THE_PROGRAM = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "KMP_BLOCKTIME",
)
SETTLE_SECONDS = 2.0  # busy processes run so long before the program starts and looks at them
TIMEOUT = 1800.0
# What is not the network: the phases that the bar on loss, matching (which the loss includes) and data is about.
BESIDE_THE_NETWORK = ("data", "copy", "loss")
OF_A_STEP = (*BESIDE_THE_NETWORK, "forward", "backward", "optimizer")


@dataclass(frozen=True)
class Job:
    """The training run that is measured: its last epochs' rates, after a first one that warms up."""

    data: Path
    recipe: str = "bccd"
    epochs: int = 3
    steps: int = 16  # per epoch
    eval_images: int = 48
    extra: tuple[str, ...] = ()  # more words of the command line

    def small(self) -> Job:
        """A few steps of a tiny model: does it run?"""
        extra = (*self.extra, "--batch-size", "2", "--image-size", "64", "--fpn-channels", "16")
        return replace(self, epochs=1, steps=2, eval_images=2, extra=extra)

    def command(self, out: Path, evaluated: bool) -> list[str]:
        words = [sys.executable, "-m", "retinanet_fast", "train", "--recipe", self.recipe]
        words += ["--data", str(self.data.resolve()), "--out", str(out), "--epochs", str(self.epochs)]
        words += ["--epoch-steps", str(self.steps), "--eval-images", str(self.eval_images)]
        return [*words, "--eval-every", str(1 if evaluated else self.epochs), *self.extra]


@dataclass
class ProgramRun:
    """One run of the program.

    Rates are images per second, the medians of all epochs but the first, which warms up. Times are of all epochs: the
    first one decodes the images, which later ones may find decoded.
    """

    busy: int  # processes that did nothing but compute beside it
    images_per_s: float
    eval_images_per_s: float | None
    seconds: float = 0.0  # of the steps
    times: dict[str, float] = field(default_factory=dict)  # of it, by phase; evaluation comes on top
    said: str = ""  # the program's first line: data, device, threads and precision

    @property
    def shares(self) -> dict[str, float]:
        """The share of each phase in the time of the steps, and of what is in no phase."""
        if not self.seconds or not self.times:
            return {}
        shares = {phase: self.times.get(phase, 0.0) / self.seconds for phase in OF_A_STEP}
        return {**shares, "other": max(0.0, 1 - sum(shares.values()))}

    @property
    def share(self) -> float | None:
        """Data, copy and loss in the time of the steps; None where the program did not time the loss."""
        shares = self.shares
        return sum(shares[phase] for phase in BESIDE_THE_NETWORK) if shares.get("loss") else None

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "shares": self.shares, "share_beside_the_network": self.share}


class ProgramError(Exception):
    """The program failed; the message is its last line."""


def render(folder: Path, quick: bool) -> Path:
    """A data set for where none is given: as many images as the epochs take, no image twice."""
    options = RenderOptions(train=8, val=4, size=64) if quick else RenderOptions(train=64, val=48, size=480)
    render_data_set(folder, options)
    return folder


def run_program(job: Job, out: Path, busy: int = 0) -> ProgramRun:
    """Train in ``out``, a new folder, beside so many busy processes.

    Raises:
        ProgramError: the program failed.
    """
    out = out.resolve()
    with busy_processes(busy):
        command = job.command(out, evaluated=not busy)
        done = subprocess.run(
            command, cwd=out.parent, env=clean(os.environ), capture_output=True, text=True, timeout=TIMEOUT
        )
    if done.returncode != 0:
        raise ProgramError((done.stderr.strip().splitlines() or ["no message"])[-1])
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    run = summary(records, busy)
    run.said = next((line for line in done.stdout.splitlines() if line.startswith("train:")), "")
    return run


def summary(records: Sequence[Mapping[str, Any]], busy: int) -> ProgramRun:
    later = records[1:] or records
    evaluated = [r["eval_images_per_second"] for r in later if "eval_images_per_second" in r]
    times: dict[str, float] = {}
    for record in records:
        for phase, seconds in record.get("times", {}).items():
            times[phase] = times.get(phase, 0.0) + seconds
    rate = statistics.median(record["images_per_second"] for record in later)
    seconds = sum(record["seconds"] for record in records)
    return ProgramRun(busy, rate, statistics.median(evaluated) if evaluated else None, seconds, times)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of somebody who has set nothing about threads, with the package that is measured first."""
    kept = {key: value for key, value in environment.items() if key not in CHOSEN_BY_THE_PROGRAM}
    package = Path(retinanet_fast.__file__).resolve().parents[1]
    paths = [str(package), *filter(None, [environment.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that each keep one core busy, for the time of the block."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        if running:
            time.sleep(SETTLE_SECONDS)
        yield
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def neighbours() -> int:
    """One busy process for every two cores."""
    return max(1, (os.cpu_count() or 1) // 2)


def alone_and_beside(job: Job, folder: Path, rounds: int) -> Iterator[ProgramRun]:
    """Runs alone and beside busy processes in turn, so that what else disturbs the machine meets both."""
    for round_ in range(rounds):
        for busy in (0, neighbours()):
            yield run_program(job, folder / f"{round_}-{busy}", busy)
