"""Appends the lines of windows, each whole and in order, as their pictures come in."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import msgspec

from retinanet_fast.engine.prediction.batches import Windows
from retinanet_fast.engine.prediction.folder import Mark


@dataclass
class _Window:
    number: int
    lines: dict[int, bytes] = field(default_factory=dict)  # by picture
    drawings: list[Future[None]] = field(default_factory=list)


class WindowWriter:
    """Writes windows of lines to a file, in their order. A window is written when each of its pictures has its line and
    is drawn: what is written need never be done again.

    Args:
        own: the windows that will come, ascending.
        marked: write a line before each window that names it.
    """

    def __init__(self, path: Path, windows: Windows, own: Iterable[int], marked: bool) -> None:
        self.windows, self.marked = windows, marked
        self._open = deque(_Window(number) for number in own)
        self._place = {window.number: window for window in self._open}
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)

    def put(self, index: int, line: bytes, drawing: Future[None] | None = None) -> None:
        """Take the line of a picture."""
        window = self._place[index // self.windows.size]
        window.lines[index] = line
        if drawing is not None:
            window.drawings.append(drawing)

    def write(self, last: bool = False) -> None:
        """Write the windows that are whole; after the last picture, all.

        Raises:
            OSError: a drawing could not be written.
        """
        while self._open:
            window = self._open[0]
            if len(window.lines) < len(self.windows.of(window.number)):
                return
            if not last and not all(drawing.done() for drawing in window.drawings):
                return
            for drawing in window.drawings:
                drawing.result()
            self._append(window)
            self._open.popleft()
            del self._place[window.number]

    def _append(self, window: _Window) -> None:
        parts = [msgspec.json.encode(Mark(window.number)) + b"\n"] if self.marked else []
        left = memoryview(b"".join([*parts, *(window.lines[i] for i in sorted(window.lines))]))
        while len(left):
            left = left[os.write(self._file, left) :]

    def __enter__(self) -> WindowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            os.fsync(self._file)
        os.close(self._file)
