"""The next step's batches on their way to the GPU while it computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from retinanet_fast.engine.data.batch import Batch


@dataclass
class _Ahead:
    """The batches of a step, whose copies are done when the event is; or why there are none."""

    batches: list[Batch]
    done: torch.cuda.Event | None = None
    error: Exception | None = None


class DevicePrefetcher(Iterator[list[Batch]]):
    """Steps of batches on a device, each copied during the step before it.

    From pinned memory the copies run on a stream of their own; the stream that uses them waits for them, the host
    never. What the source raises, its end too, comes when the steps before it have been handed out. On the CPU the
    batches are passed on as they are.

    Args:
        batches: for each step a list; on a GPU they are in pinned memory (``Batch.pin_memory``).
        device: where they go.
    """

    def __init__(self, batches: Iterator[list[Batch]], device: torch.device) -> None:
        self._batches = batches
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._ahead: _Ahead | None = None

    def __next__(self) -> list[Batch]:
        if self._stream is None:
            return next(self._batches)
        ahead = self._ahead or self._fetch(self._stream)
        if ahead.error is not None:
            raise ahead.error
        # In a step that is told to the device already, and before the one that uses what is handed out.
        self._ahead = self._fetch(self._stream)
        assert ahead.done is not None
        current = torch.cuda.current_stream(self._device)
        current.wait_event(ahead.done)
        for batch in ahead.batches:
            batch.record_stream(current)
        return ahead.batches

    def _fetch(self, stream: torch.cuda.Stream) -> _Ahead:
        try:
            on_host = next(self._batches)
        except Exception as error:
            return _Ahead([], error=error)
        with torch.cuda.stream(stream):
            batches = [batch.to(self._device) for batch in on_host]
        return _Ahead(batches, stream.record_event())
