"""A progress line on a terminal; an occasional plain line where the output is a file."""

from __future__ import annotations

import sys
import time
from typing import TextIO


class Progress:
    """Shows ``label [#####.....] 12/100 note``, redrawn in place on a terminal.

    Args:
        label: what is in progress.
        total: number of steps.
        stream: where to write, by default the standard error stream.
        seconds: shortest time between two lines where the stream is not a terminal.
    """

    WIDTH = 24

    def __init__(self, label: str, total: int, stream: TextIO | None = None, seconds: float = 20.0) -> None:
        self.label = label
        self.total = total
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.interval = 0.1 if self.terminal else seconds
        self.started = self.shown = time.monotonic()
        self.drawn = False

    def due(self) -> bool:
        """Whether enough time has passed to draw again; only then need the caller fetch values to show."""
        return time.monotonic() - self.shown >= self.interval

    def draw(self, done: int, note: str) -> None:
        """Draw the state after ``done`` steps."""
        self.shown = time.monotonic()
        filled = self.WIDTH * done // max(1, self.total)
        bar = "#" * filled + "." * (self.WIDTH - filled)
        line = f"{self.label} [{bar}] {done}/{self.total} {note}"
        self.stream.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        self.stream.flush()
        self.drawn = True

    def close(self) -> None:
        """Remove the line, so that the next output starts on a clean one."""
        if self.terminal and self.drawn:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
