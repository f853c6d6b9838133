"""Remembers what was found out about the files of a folder, in a cache folder, while they keep length and time."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import NamedTuple

from retinanet_fast.engine.files import write_bytes

VARIABLE = "RETINANET_FAST_CACHE"


class ImageFacts(NamedTuple):
    """What an image file is, without its pixels."""

    width: int  # as stored; 0 where the file cannot be read
    height: int
    turn: int = 1  # EXIF's orientation, 1 to 8: 1 is upright, from 5 on width and height are exchanged
    fault: str | None = None  # why it cannot be read
    decoded: bool = False  # whether all its pixels were, not its header alone

    @property
    def upright(self) -> tuple[int, int]:
        """(width, height) of the picture as EXIF turns it."""
        return (self.height, self.width) if self.turn >= 5 else (self.width, self.height)


class Known(NamedTuple):
    """Facts, and the file's length in bytes and time of change for which they hold."""

    length: int
    mtime_ns: int
    facts: ImageFacts


def cache_folder() -> Path:
    """Where it is remembered: ``RETINANET_FAST_CACHE``, or ``retinanet_fast`` in the system's folder for caches."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "retinanet_fast"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "retinanet_fast"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "retinanet_fast"


def record_of(folder: Path) -> Path:
    """The file that remembers a folder."""
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()
    return cache_folder() / f"images-{digest[:24]}.json"


def recall(folder: Path) -> dict[str, Known]:
    """What is known of a folder's files, by name: nothing where the record is absent or damaged, since everything can
    be found out again."""
    import msgspec

    try:
        return msgspec.json.decode(record_of(folder).read_bytes(), type=dict[str, Known])
    except (OSError, msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}


def remember(folder: Path, known: dict[str, Known]) -> None:
    """Write down what is known of a folder's files.

    Raises:
        OSError: the cache folder cannot be written.
    """
    import msgspec

    write_bytes(record_of(folder), msgspec.json.encode(known))
