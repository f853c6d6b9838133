"""Where a step's time goes, and how much memory it takes."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

PHASES = ("data", "copy", "forward", "loss", "backward", "optimizer", "evaluation", "checkpoint")


@dataclass
class _Interval:
    """A finished phase by the moments of its begin and end: seconds on the host, or CUDA events."""

    phase: str
    outer: str | None
    begin: Any
    end: Any


class PhaseClock:
    """Adds up the seconds of each phase: ``with clock("forward"): ...``.

    A phase inside another one is subtracted from it, so that the phases' sum is the time of the outermost.

    On the CPU these are seconds of the host. On a GPU they are seconds of the device's current stream between two
    events, which are read when the device has passed them: nothing waits for it but ``take``. A phase that keeps the
    device waiting, such as for data, then counts as long as the device was idle for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._unread: deque[_Interval] = deque()  # in the order of their ends, as the device passes them
        self._free: list[torch.cuda.Event] = []

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of the block as that of ``phase``."""
        outer = self._open[-1] if self._open else None
        begin = self._now()
        self._open.append(phase)
        try:
            yield
        finally:
            self._open.pop()
            self._unread.append(_Interval(phase, outer, begin, self._now()))
            self._read(wait=False)

    def take(self) -> dict[str, float]:
        """The seconds of each phase since the last call. A phase that is still open counts when it ends. On a GPU this
        waits for the last phase to be done."""
        self._read(wait=True)
        taken, self._seconds = self._seconds, {}
        return taken

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _read(self, wait: bool) -> None:
        """Add up what is done, in order; on a GPU the events are used again."""
        while self._unread:
            interval = self._unread[0]
            if self._cuda:
                if wait:
                    interval.end.synchronize()
                elif not interval.end.query():
                    return
                seconds = interval.begin.elapsed_time(interval.end) / 1e3
                self._free += [interval.begin, interval.end]
            else:
                seconds = interval.end - interval.begin
            self._unread.popleft()
            self._add(interval.phase, seconds)
            if interval.outer is not None:
                self._add(interval.outer, -seconds)

    def _add(self, phase: str, seconds: float) -> None:
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds


def memory_bytes(device: torch.device) -> int | None:
    """The most memory that was in use so far: a GPU's, as its allocator counts it, or else this process's resident
    size, without its loaders'. None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # kilobytes but on macOS
