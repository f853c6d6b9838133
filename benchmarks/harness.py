"""The one timer: median and spread of a call, the device's copy bandwidth, and the peak memory of a call."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.workload import Call

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would log each start and stop

WARM_UP_SECONDS = 0.1  # or a fifth of a smaller budget
SLOW_SECONDS = 1.0  # from here on one warm-up call and a few rounds are enough
SHORTEST_SAMPLE = 200e-6  # shorter calls are repeated in a sample: the clock and the loop cost some 100 ns
MIN_ROUNDS, MIN_SLOW_ROUNDS, MAX_ROUNDS = 7, 3, 500


@dataclass(frozen=True)
class Plan:
    """`rounds` samples, each the mean of `calls` calls."""

    rounds: int
    calls: int


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    p20: float
    p80: float
    plan: Plan

    @classmethod
    def of(cls, samples: Iterable[float], plan: Plan) -> Timing:
        ordered = sorted(samples)
        fifths = statistics.quantiles(ordered, n=5, method="inclusive") if len(ordered) > 1 else ordered * 4
        return cls(statistics.median(ordered), fifths[0], fifths[3], plan)


@dataclass(frozen=True)
class Memory:
    """Bytes above those held before the call, its results included."""

    peak: int  # in torch's allocator
    resident: int | None = None  # of the whole process; CPU on Linux


@dataclass
class Harness:
    device: torch.device
    budget: float = 1.0  # seconds of samples per call
    _copies: dict[int, Timing] = field(default_factory=dict)
    _flush: torch.Tensor | None = None

    def plan(self, call: Call) -> Plan:
        """Warm up, then time as many rounds as fit into the budget."""
        seconds = self._sample(call, 1)
        if seconds < SLOW_SECONDS:
            end = time.perf_counter() + min(WARM_UP_SECONDS, self.budget / 5)
            while time.perf_counter() < end:
                call()
            seconds = min(self._sample(call, 1) for _ in range(3))
        calls = 1
        if self.device.type == "cpu":  # a repeated call on CUDA would find its inputs in the L2 cache
            calls = max(1, math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-7)))
        least = MIN_SLOW_ROUNDS if seconds >= SLOW_SECONDS else MIN_ROUNDS
        return Plan(min(MAX_ROUNDS, max(least, int(self.budget / (seconds * calls)))), calls)

    def time(self, call: Call) -> Timing:
        return self.time_in_turn([call])[0]

    def time_in_turn(self, calls: Sequence[Call]) -> list[Timing]:
        """One round of each call after another, the next time in the other order: what drifts meets all of them."""
        plans = [self.plan(call) for call in calls]
        rounds = min((plan.rounds for plan in plans), default=0)
        samples: list[list[float]] = [[] for _ in calls]
        collecting = gc.isenabled()
        gc.disable()
        try:
            for round_ in range(rounds):
                for i in range(len(calls)) if round_ % 2 == 0 else reversed(range(len(calls))):
                    samples[i].append(self._sample(calls[i], plans[i].calls))
        finally:
            if collecting:
                gc.enable()
        return [Timing.of(own, Plan(rounds, plan.calls)) for own, plan in zip(samples, plans, strict=True)]

    def once(self, call: Call) -> tuple[Any, Timing]:
        """The result of one call, and its wall-clock time without any warm-up."""
        start = time.perf_counter()
        result = call()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result, Timing.of([time.perf_counter() - start], Plan(1, 1))

    def copy_seconds(self, moved: int) -> float:
        """The time of a copy between existing buffers that reads and writes `moved` bytes in all."""
        if moved not in self._copies:
            source = torch.ones(max(1, moved // 2), dtype=torch.uint8, device=self.device)
            target = torch.zeros_like(source)  # written once here, so that no page is new when it is timed
            self._copies[moved] = self.time(lambda: target.copy_(source))
        return self._copies[moved].median

    def memory(self, call: Call) -> Memory:
        if self.device.type == "cpu":
            return Memory(_allocator_peak(call), resident_peak(call))
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        call()
        return Memory(torch.cuda.max_memory_allocated(self.device) - before)

    def _sample(self, call: Call, calls: int) -> float:
        """Seconds per call: wall clock on the CPU, device time with a cold L2 cache on CUDA."""
        if self.device.type == "cpu":
            start = time.perf_counter()
            for _ in range(calls):
                call()
            return (time.perf_counter() - start) / calls
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        self._flush_cache()
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def _flush_cache(self) -> None:
        """Write twice the L2 cache. Meanwhile the host runs ahead, which hides the cost of a launch."""
        if self._flush is None:
            size = 2 * torch.cuda.get_device_properties(self.device).L2_cache_size
            self._flush = torch.empty(max(size, 64 << 20), dtype=torch.uint8, device=self.device)
        self._flush.zero_()


def _allocator_peak(call: Call) -> int:
    """The highest running sum of torch's CPU allocations and frees during the call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = call()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    del result
    return peak


def resident_peak(call: Call) -> int | None:
    """How far the process's resident set rose during the call: also sees memory that torch did not allocate.

    Counted in pages, and with transparent huge pages in steps of 2 MiB.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)  # give back what is free, or the call would reuse it unseen
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: man 5 proc
    except (OSError, AttributeError):
        return None
    before = status_bytes("VmRSS")
    call()
    return max(0, status_bytes("VmHWM") - before)


def status_bytes(key: str) -> int:
    """A size in ``/proc/self/status``: ``VmRSS``, what is resident, or ``VmHWM``, the most that was (man 5 proc)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))
