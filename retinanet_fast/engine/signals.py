"""SIGTERM and Ctrl-C as requests, which the loop heeds between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class StopRequest:
    """The signal that asked this process to stop, if one has.

    A second Ctrl-C stops at once: the files that were written before are whole.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def _note(self, number: int, _: FrameType | None) -> None:
        if self and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self:
            self.signal_number = number
            name = NAMES[signal.Signals(number)]
            print(f"\n{name}: stops after this step; Ctrl-C stops at once", file=sys.stderr, flush=True)


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Hold SIGTERM and Ctrl-C as a request for the time of the block; signals reach the main thread alone."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request._note) for number in NAMES}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
