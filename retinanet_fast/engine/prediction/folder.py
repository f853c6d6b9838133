"""A prediction's folder: what it was begun with, what of it is done, and how it is resumed after a kill.

``predict.json``                 the settings it was begun with
``detections.jsonl``             a line for each picture, in the order of the sources: always some first windows, whole,
                                 and after a kill perhaps a torn one, which is cut
``detections.part-RANK.jsonl``   what each of several processes has done, in its own order: before each window's lines
                                 one that names it; joined into ``detections.jsonl`` at the end
``detections.json``              COCO's results, made of the lines at the end
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from retinanet_fast.engine.data.json_values import load_json
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.folder_lock import only_program
from retinanet_fast.engine.prediction.batches import Windows

SETTINGS, LINES, COCO = "predict.json", "detections.jsonl", "detections.json"
PART = "detections.part-{}.jsonl"
BLOCK = 1 << 20
# What is said of settings that are digests.
OTHER = {"checkpoint": "another checkpoint", "names": "other pictures"}


class Mark(msgspec.Struct):
    """The line before a window's in a part."""

    window: int


@dataclass
class PredictionFolder:
    """The folder ``--out``. Only the main process calls ``locked``, ``begin`` and ``join``."""

    path: Path
    windows: Windows
    # Of each window that is in a part: the file, and its first and last byte.
    _parts: dict[int, tuple[Path, int, int]] = field(default_factory=dict, init=False)

    @property
    def lines(self) -> Path:
        """The lines, in the order of the sources."""
        return self.path / LINES

    @property
    def coco(self) -> Path:
        """COCO's results."""
        return self.path / COCO

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only program that writes here, for the time of the block.

        Raises:
            InputError: another program has the folder.
        """
        with only_program(self.path):
            for unfinished in self.path.glob(".*.part"):  # of one that was killed
                unfinished.unlink()
            yield

    def begin(self, settings: dict[str, Any], resume: bool, overwrite: bool) -> np.ndarray:
        """Take over what is here, or start anew.

        Returns:
            ``[windows]`` bool: which are done.

        Raises:
            InputError: a prediction is here and is to be neither resumed nor replaced, or was begun with other
                settings.
        """
        if resume:
            self._check(settings)
        elif overwrite:
            self._remove()
        elif self._holds_something():
            raise InputError(
                f"{self.path}: holds a prediction already: --resume goes on with it, --overwrite replaces it"
            )
        write_text(self.path / SETTINGS, json.dumps(settings, indent=1) + "\n")
        done = np.zeros(len(self.windows), dtype=bool)
        done[: self._cut_lines()] = True
        for part in self._part_files():
            self._cut_part(part)
        done[list(self._parts)] = True
        return done

    @property
    def has_parts(self) -> bool:
        """Whether something is still to be joined; asked after ``begin``."""
        return bool(self._part_files())

    def part(self, rank: int) -> Path:
        """What process ``rank`` of several appends to."""
        return self.path / PART.format(rank)

    def join(self) -> None:
        """Append the parts to the lines, in order, and remove them."""
        self._parts.clear()
        first = self._cut_lines()
        for part in self._part_files():
            self._cut_part(part)
        with self.lines.open("ab") as lines:
            for window in range(first, len(self.windows)):
                self._copy(window, lines)
            lines.flush()
            os.fsync(lines.fileno())
        for part in self._part_files():
            part.unlink()

    def _copy(self, window: int, lines: IO[bytes]) -> None:
        path, start, end = self._parts[window]
        with path.open("rb") as part:
            part.seek(start)
            while start < end:
                block = part.read(min(BLOCK, end - start))
                lines.write(block)
                start += len(block)

    def _cut_lines(self) -> int:
        """Cut ``detections.jsonl`` after its last whole window; returns how many it has."""
        if not self.lines.exists():
            return 0
        done = end = position = 0
        with self.lines.open("r+b") as file:
            for number, line in enumerate(file, 1):
                position += len(line)
                if done < len(self.windows) and number == self.windows.of(done).stop and line.endswith(b"\n"):
                    done, end = done + 1, position
            file.truncate(end)
        return done

    def _cut_part(self, path: Path) -> None:
        """Note where a part has each window, and cut it after its last whole one."""
        end = 0
        with path.open("r+b") as file:
            while (window := _mark(file.readline())) is not None:
                start = file.tell()
                lines = [file.readline() for _ in self.windows.of(window)]
                if not lines[-1].endswith(b"\n"):
                    break
                end = file.tell()
                self._parts[window] = path, start, end
            file.truncate(end)

    def _holds_something(self) -> bool:
        files = (self.lines, self.coco, *self._part_files())
        return any(file.is_file() and file.stat().st_size > 0 for file in files)

    def _check(self, settings: dict[str, Any]) -> None:
        path = self.path / SETTINGS
        if not path.is_file() and self._holds_something():
            raise InputError(
                f"{path}: no such file: the prediction here cannot be resumed, --overwrite replaces it"
            )
        begun = load_json(path) if path.is_file() else settings
        for name, value in settings.items():
            before = begun.get(name) if isinstance(begun, dict) else None
            if before != value:
                was = OTHER.get(name) or f"{name} {before}, now it is {value}"
                raise InputError(f"{path}: begun with {was}: resume with the same, or use --overwrite")

    def _remove(self) -> None:
        for file in (self.path / SETTINGS, self.lines, self.coco, *self._part_files()):
            file.unlink(missing_ok=True)

    def _part_files(self) -> list[Path]:
        return sorted(self.path.glob(PART.format("*")))


def _mark(line: bytes) -> int | None:
    """The window that a line announces; None for a torn one, or the end of the file."""
    return msgspec.json.decode(line, type=Mark).window if line.endswith(b"\n") else None
