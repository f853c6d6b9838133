"""Times the contenders in turn and makes rows of it."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Harness, Plan, Timing
from benchmarks.providers import one_line
from benchmarks.training_step.contenders import OURS, PRECISIONS, Contender, contenders, train_step
from benchmarks.training_step.rates import flops_of, matmul_rate
from benchmarks.training_step.trainer import trainer_calls
from benchmarks.training_step.works import Batch, Work, make_batch, our_model, torchvisions_model
from benchmarks.workload import Call

TRAINING, EVALUATION, OPTIMIZER = "training", "evaluation", "optimizer"
# Relative, in float32: sums in another order through 50 layers; on a GPU of products in TF32, which have 10 bits.
SAME_LOSS = {"cpu": 1e-3, "cuda": 1e-2}
CUDA_CALLS = 10  # per sample and to warm up: the host runs ahead of the GPU, as in a training run


@dataclass
class StepRow:
    """One contender at one work. Times are seconds per batch, sizes bytes; None: not measured or not meant."""

    workload: str  # training/r50-512/bfloat16
    provider: str
    shape: str
    median: float
    p20: float
    p80: float
    rounds: int
    images_per_s: float | None = None
    flops: int | None = None
    flops_per_s: float | None = None
    matmul_share: float | None = None  # of the rate of this machine's matrix product in the same precision
    bytes_moved: int | None = None  # optimizer: what any implementation must read and write
    gb_per_s: float | None = None
    copy_share: float | None = None
    peak_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Measurement:
    """How it is measured."""

    harness: Harness
    rounds: int
    quick: bool
    matmul: Mapping[str, float]  # operations per second, by precision


def matmul_rates(harness: Harness, quick: bool) -> dict[str, float]:
    return {name: matmul_rate(harness, dtype, quick) for name, dtype in PRECISIONS.items()}


def measure(work: Work, how: Measurement) -> Iterator[StepRow]:
    """The rows of one work.

    Raises:
        ValueError: the two models, of equal weights, have different losses.
    """
    device = how.harness.device
    batch = make_batch(work, pinned=device.type == "cuda")
    ours = our_model(work)
    flops = flops_of(ours, work)
    found = list(contenders(ours, torchvisions_model(work), batch, device))
    check_losses(found, batch, device)

    for precision in work.precisions:
        calls = {
            c.name(fused): c.training(batch, device, precision, fused)
            for c in found
            for fused in c.optimizers
        }
        calls.update(trainer_calls(ours, work, batch, device, precision))
        for name, timing in in_turn(calls, how.rounds, device).items():
            row = make_row(TRAINING, work, precision, name, timing)
            if not how.quick:
                row.peak_bytes = how.harness.memory(calls[name]).peak
            yield with_rate(row, work, flops.step, how.matmul[precision])
        calls = {c.name(): c.evaluation(batch, device, precision) for c in found}
        for name, timing in in_turn(calls, how.rounds, device).items():
            row = make_row(EVALUATION, work, precision, name, timing)
            yield with_rate(row, work, flops.forward, how.matmul[precision])
    yield from _optimizer_rows(work, how, found)


def _optimizer_rows(work: Work, how: Measurement, found: list[Contender]) -> Iterator[StepRow]:
    """The optimizer's part of the steps above, alone: the gradients are those of the last step."""
    calls: dict[str, Call] = {
        c.name(fused): optimizer.step for c in found for fused, optimizer in c.optimizers.items()
    }
    for name, timing in in_turn(calls, 3 * how.rounds, how.harness.device).items():
        row = make_row(OPTIMIZER, work, "float32", name, timing)
        # Read: weights, gradients, momentum. Written: weights and momentum.
        parameters = sum(p.numel() for p in found[0].model.parameters() if p.requires_grad)
        row.bytes_moved = 5 * 4 * parameters
        row.gb_per_s = row.bytes_moved / timing.median / 1e9
        row.copy_share = how.harness.copy_seconds(row.bytes_moved) / timing.median
        yield row


def check_losses(found: list[Contender], batch: Batch, device: torch.device) -> None:
    losses: dict[str, dict[str, float]] = {}
    for c in found:
        optimizer = next(iter(c.optimizers.values()))
        found_here = train_step(c.model, optimizer, batch, device, torch.float32)
        losses[c.name()] = {part: value.item() for part, value in found_here.items()}
    for name, parts in losses.items():
        for part, value in parts.items():
            expected = losses[OURS][part]
            if not abs(value - expected) <= SAME_LOSS[device.type] * abs(expected):
                raise ValueError(
                    f"{name}: expected the {part} loss of equal weights, {expected}, got {value}"
                )


def in_turn(calls: Mapping[str, Call], rounds: int, device: torch.device) -> dict[str, Timing]:
    """One sample of each call after another, the next time in the other order: what disturbs meets all of them."""
    repeated = CUDA_CALLS if device.type == "cuda" else 1
    calls = warmed_up(calls, repeated)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for round_ in range(rounds):
            for name in list(calls) if round_ % 2 == 0 else reversed(list(calls)):
                samples[name].append(_sample(calls[name], repeated, device))
    finally:
        if collecting:
            gc.enable()
    plan = Plan(rounds, repeated)
    return {name: Timing.of(own, plan) for name, own in samples.items()}


def warmed_up(calls: Mapping[str, Call], repeated: int) -> dict[str, Call]:
    """The calls, after what each does only at first: libraries choose their algorithms, a step is captured. One that
    fails is told of and left out, unless it is ours: a peer's failure must not end the run."""
    working = {}
    for name, call in calls.items():
        try:
            for _ in range(repeated):
                call()
            working[name] = call
        except Exception as error:
            if name == OURS:
                raise
            print(f"left out: {name}: {one_line(error)}", flush=True)
    return working


def _sample(call: Call, repeated: int, device: torch.device) -> float:
    wait = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(repeated):
        call()
    wait()
    return (time.perf_counter() - start) / repeated


def make_row(kind: str, work: Work, precision: str, provider: str, timing: Timing) -> StepRow:
    name = f"{kind}/{work.name}/{precision}"
    return StepRow(name, provider, work.shape, timing.median, timing.p20, timing.p80, timing.plan.rounds)


def with_rate(row: StepRow, work: Work, flops: int, matmul: float) -> StepRow:
    row.images_per_s = work.images / row.median
    row.flops, row.flops_per_s = flops, flops / row.median
    row.matmul_share = row.flops_per_s / matmul
    return row
