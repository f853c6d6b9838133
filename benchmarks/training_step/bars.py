"""The bars of a training step.

torchvision's model is judged in the faster of its two memory formats with torch's default optimizer, as torchvision's
own training script (``references/detection/train.py``) has it; the ratio to its fastest row, a fused optimizer
included, stands beside it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.bars import Verdict
from benchmarks.training_step.contenders import FUSED, OURS, PEER
from benchmarks.training_step.program import ProgramRun
from benchmarks.training_step.steps import EVALUATION, TRAINING, StepRow

# Our bfloat16 step against torchvision's in each precision, by device.
TIMES = {"cpu": {"float32": 2.0, "bfloat16": 1.05}, "cuda": {"bfloat16": 1.5}}
CUDA_IMAGES_PER_S = 300.0  # an H200, ResNet-50 at 800 px
CUDA_EVALUATION = 2.0  # times the training rate
SHARE_BESIDE_THE_NETWORK = 0.05
RATE_BESIDE_BUSY = 0.4


def verdict(work: str, bar: str, value: float | None, unit: str, passed: bool) -> Verdict:
    outcome = "not measured" if value is None else "pass" if passed else "miss"
    return Verdict(work, bar, value, unit, outcome)


def step_verdicts(rows: Sequence[StepRow], device: str) -> Iterator[Verdict]:
    """Of the rows of one work."""
    name = rows[0].workload.split("/")[1]
    ours = _of(rows, f"{TRAINING}/{name}/bfloat16").get(OURS)
    for precision, limit in TIMES[device].items():
        workload = f"{TRAINING}/{name}/{precision}"
        theirs = {p: row.median for p, row in _of(rows, workload).items() if p.startswith(PEER)}
        usual = [median for provider, median in theirs.items() if FUSED not in provider]
        if ours is None or not usual:
            yield verdict(workload, f">= {limit:g}x torchvision {precision}", None, "x", False)
            continue
        value, fused = min(usual) / ours.median, min(theirs.values()) / ours.median
        text = f"bfloat16 >= {limit:g}x torchvision {precision} ({fused:.3g}x its fastest, optimizer fused)"
        yield verdict(workload, text, value, "x", value >= limit)
    if device == "cuda":
        yield from _gpu_verdicts(rows, name)


def _gpu_verdicts(rows: Sequence[StepRow], name: str) -> Iterator[Verdict]:
    """Of the fastest of our steps, which may be a variant that a recipe has to ask for: its name is told."""
    workload = f"{TRAINING}/{name}/bfloat16"
    rates = {p: row.images_per_s or 0.0 for p, row in _of(rows, workload).items() if p.startswith(OURS)}
    best = max(rates, key=lambda provider: rates[provider])
    text = f">= {CUDA_IMAGES_PER_S:g} images/s ({best})"
    yield verdict(workload, text, rates[best], "/s", rates[best] >= CUDA_IMAGES_PER_S)
    evaluated = _of(rows, f"{EVALUATION}/{name}/bfloat16")[OURS].images_per_s or 0.0
    times = evaluated / rates[best]
    text = f"evaluation >= {CUDA_EVALUATION:g}x the training rate ({best})"
    yield verdict(workload, text, times, "x", times >= CUDA_EVALUATION)


def _of(rows: Sequence[StepRow], workload: str) -> dict[str, StepRow]:
    return {row.provider: row for row in rows if row.workload == workload}


def program_verdicts(runs: Sequence[ProgramRun]) -> Iterator[Verdict]:
    shares = [run.share for run in runs if not run.busy and run.share is not None]
    share = statistics.median(shares) if shares else None
    text = f"loss, matching and data <= {SHARE_BESIDE_THE_NETWORK:.0%} of a step"
    passed = share is not None and share <= SHARE_BESIDE_THE_NETWORK
    yield verdict("program", text, share, "%", passed)
    kept = rate_kept(runs)
    text = f"beside busy processes >= {RATE_BESIDE_BUSY:.0%} of the rate alone"
    yield verdict("program", text, kept, "%", kept is not None and kept >= RATE_BESIDE_BUSY)


def rate_kept(runs: Sequence[ProgramRun]) -> float | None:
    """The rate beside busy processes over that alone, of the medians."""
    alone = [run.images_per_s for run in runs if not run.busy]
    beside = [run.images_per_s for run in runs if run.busy]
    return statistics.median(beside) / statistics.median(alone) if alone and beside else None
