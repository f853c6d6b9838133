"""A progress bar on a terminal, by tqdm; an occasional plain line where the output is a file."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from tqdm import tqdm


def say(line: str) -> None:
    """Print a line, above the bars that are on the terminal."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


class Progress:
    """Shows ``label: bar 12/100, 0:31 left, note``, redrawn in place on a terminal.

    Args:
        label: what is in progress.
        total: number of steps.
        stream: where to write, by default the standard error stream.
        seconds: shortest time between two lines where the stream is not a terminal.
    """

    def __init__(self, label: str, total: int, stream: TextIO | None = None, seconds: float = 20.0) -> None:
        self.label = label
        self.total = total
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.interval = 0.1 if self.terminal else seconds
        self.started = self.shown = time.monotonic()
        self.bar: tqdm[None] | None = None

    def due(self) -> bool:
        """Whether enough time has passed to draw again; only then need the caller fetch values to show."""
        return time.monotonic() - self.shown >= self.interval

    def draw(self, done: int, note: str = "", left: float | None = None) -> None:
        """Draw the state after ``done`` steps. ``left`` is the time left in seconds, by default at the speed so far."""
        self.shown = time.monotonic()
        if left is None:
            left = (self.total - done) * (self.shown - self.started) / max(1, done)
        note = ", ".join(filter(None, [f"{tqdm.format_interval(left)} left", note]))
        if not self.terminal:
            self.stream.write(f"{self.label}: {done}/{self.total}, {note}\n")
            self.stream.flush()
            return
        if self.bar is None:
            self.bar = tqdm(
                initial=done,
                total=self.total,
                desc=self.label,
                file=self.stream,
                leave=False,
                ncols=shutil.get_terminal_size().columns - 1,  # 80 where a terminal does not tell
                bar_format="{desc}: {bar} {n_fmt}/{total_fmt}{postfix}",
            )
        self.bar.n = done
        self.bar.set_postfix_str(note)

    def close(self) -> None:
        """Remove the bar, so that the next output starts on a clean line."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
