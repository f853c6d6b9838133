"""Brings what a step found to the host without making the GPU wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

# Steps that a GPU may be ahead of the host's knowledge: enough never to wait for the host.
LAG = 2

Note = TypeVar("Note")


@dataclass
class _Pending(Generic[Note]):
    note: Note
    values: Tensor
    done: torch.cuda.Event | None


class Readback(Generic[Note]):
    """Small tensors on their way to the host, each with a note of the host's.

    On a GPU a tensor is copied to pinned memory behind the step's work and read ``LAG`` steps later, when it is there:
    no process waits in between, and all processes read a step's values after the same later step. On the CPU it is read
    at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.lag = LAG if device.type == "cuda" else 0
        self._pending: deque[_Pending[Note]] = deque()

    def push(self, note: Note, values: Tensor) -> None:
        """Send ``values`` to the host."""
        done = None
        if values.device.type == "cuda":
            host = torch.empty_like(values, device="cpu", pin_memory=True)
            host.copy_(values, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            values = host
        self._pending.append(_Pending(note, values, done))

    def due(self) -> Iterator[tuple[Note, list[float]]]:
        """What is old enough to be read, in order."""
        yield from self._take(self.lag)

    def rest(self) -> Iterator[tuple[Note, list[float]]]:
        """Everything that is left."""
        yield from self._take(0)

    def clear(self) -> None:
        """Forget what is on its way."""
        self._pending.clear()

    def _take(self, keep: int) -> Iterator[tuple[Note, list[float]]]:
        while len(self._pending) > keep:
            pending = self._pending.popleft()
            if pending.done is not None:
                pending.done.synchronize()
            yield pending.note, pending.values.tolist()
