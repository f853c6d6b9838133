"""The pictures to detect on, in packed arrays: a hundred thousand names in some 8 MB, which workers share."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from retinanet_fast.engine.data.split import Texts

FILE, TAR, VIDEO = "file", "tar", "video"


class Holder(NamedTuple):
    """What pictures are in: a folder of files, a tar, or a video."""

    kind: str
    path: Path


class Picture(NamedTuple):
    """One picture, and where its bytes are."""

    name: str  # what the output calls it
    kind: str
    path: Path  # of the file, or of the tar or the video that holds it
    place: int = 0  # in a tar: the first byte; in a video: the frame's time, in the stream's own units
    size: int = 0  # in a tar: bytes

    def __str__(self) -> str:
        return str(self.path) if self.kind == FILE else str(self.path.parent / self.name)


@dataclass(eq=False)
class Pictures:
    """N pictures, in the order of their sources; a ``Picture`` is made when it is asked for."""

    names: Texts  # [N], within their holder
    holders: list[Holder]
    owners: np.ndarray  # [N] int32, the index of each picture's holder
    places: np.ndarray  # [N, 2] int64, a ``Picture``'s place and size

    def __len__(self) -> int:
        return len(self.owners)

    def __getitem__(self, index: int) -> Picture:
        holder, name = self.holders[self.owners[index]], self.names[index]
        if holder.kind == FILE:
            return Picture(name, FILE, holder.path / name)
        place, size = self.places[index].tolist()
        return Picture(f"{holder.path.name}/{name}", holder.kind, holder.path, place, size)

    def __iter__(self) -> Iterator[Picture]:
        return (self[index] for index in range(len(self)))

    def ids(self) -> np.ndarray:
        """``[N]`` int64: the number in each picture's name, as in COCO, where all names are different numbers; else its
        place among the pictures, from 1."""
        numbers = array("q")
        for name in self.names:
            stem = PurePosixPath(name).stem
            if not (stem.isdecimal() and len(stem) <= 18):
                break
            numbers.append(int(stem))
        found = np.array(numbers, dtype=np.int64)
        if len(found) == len(self) and len(np.unique(found)) == len(found):
            return found
        return np.arange(1, len(self) + 1)

    def digest(self) -> str:
        """The SHA-256 of names and places. The folders that hold them may have moved."""
        digest = hashlib.sha256()
        for part in (self.names.content, self.names.ends, self.owners, self.places):
            digest.update(np.ascontiguousarray(part).tobytes())
        for holder in self.holders:
            digest.update(holder.kind.encode() + (b"" if holder.kind == FILE else holder.path.name.encode()))
        return digest.hexdigest()


class Gathered:
    """Pictures as they are found, packed at once."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._ends, self._places = array("q"), array("q")
        self._owners = array("i")
        self._holders: dict[Holder, int] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def add(self, holder: Holder, name: str, place: int = 0, size: int = 0) -> None:
        """Append a picture."""
        self._content += name.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._content))
        self._owners.append(self._holders.setdefault(holder, len(self._holders)))
        self._places.extend((place, size))

    def pictures(self) -> Pictures:
        """All of them."""
        names = Texts(np.frombuffer(bytes(self._content), dtype=np.uint8), np.array(self._ends, np.int64))
        places = np.array(self._places, np.int64).reshape(-1, 2)
        return Pictures(names, list(self._holders), np.array(self._owners, np.int32), places)
