"""Where a split of a data set is, and what it holds, in any of the forms in which data sets are written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from retinanet_fast.engine.data import coco
from retinanet_fast.engine.data.sources import lvis, objects365, voc, yolo
from retinanet_fast.engine.data.split import Location, Split
from retinanet_fast.engine.errors import InputError, Problems

# In the order in which a folder is tried for them.
SOURCES: dict[str, ModuleType] = {
    "coco": coco,
    "lvis": lvis,
    "objects365": objects365,
    "voc": voc,
    "yolo": yolo,
}
FORMATS = tuple(SOURCES)
SPLITS = ("train", "val", "test")


def locate(data: Path, split: str, format: str = "auto") -> Location | None:
    """Find a split in a data set's folder; None where the folder has no such split.

    Args:
        split: "train", "val" or "test".
        format: one of ``FORMATS``; "auto" is the first of them in which the folder has any split: all its splits are
            then of that format.

    Raises:
        InputError: ``data`` is not a folder, or its description of the splits cannot be read.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    if format == "auto":
        format = next((name for name in FORMATS[:-1] if _has_any(data, name, split)), FORMATS[-1])
    found: Location | None = SOURCES[format].locate(data, split)
    return found


def _has_any(data: Path, format: str, split: str) -> bool:
    return any(SOURCES[format].locate(data, name) is not None for name in (split, *SPLITS))


def read_split(location: Location, problems: Problems) -> Split:
    """Read and check a split, and find its image files. No image is decoded; ``check_data`` does that.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    split: Split = SOURCES[location.format].read_split(location, problems)
    return replace(split, location=location)


def read_annotations(location: Location, problems: Problems) -> Split:
    """``read_split`` for who needs no images: what a json states is taken without a look at the files."""
    if hasattr(SOURCES[location.format], "read_annotations"):
        split: Split = SOURCES[location.format].read_annotations(location.annotations, problems)
        return replace(split, location=location)
    return read_split(location, problems)


def missing(data: Path, split: str, format: str = "auto") -> str:
    """That a folder has no such split, and what was looked for, for an error."""
    names = FORMATS if format == "auto" else (format,)
    looked_for = "; ".join(f"{SOURCES[name].LAYOUT.format(split=split)} ({name})" for name in names)
    return f"{data}: no split {split!r}: looked for {looked_for}"
