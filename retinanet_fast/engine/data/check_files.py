"""Checks a split's image files, and remembers the check, so that a resumed run does not open every file once more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image

from retinanet_fast.engine.data.split import ImageEntry, Split
from retinanet_fast.engine.errors import Problems, one_line
from retinanet_fast.engine.files import sha256_of, write_text

Faults = dict[int, str]  # by image id


def image_folder(images: list[ImageEntry], folders: tuple[Path, ...]) -> Path:
    """The folder that holds most of the first images (one missing file must not decide)."""
    present = [folder for folder in folders if folder.is_dir()] or list(folders)
    return max(present, key=lambda folder: sum((folder / image.file_name).is_file() for image in images[:20]))


def check_files(
    split: Split, problems: Problems, record: Path | None, write_record: bool
) -> list[ImageEntry]:
    """The images whose files are as the json says; the others are reported. See ``read_split``."""
    mark = fingerprint(split) if record is not None else ""
    known = _recall(record, split, mark) if record is not None else None
    faults: Faults = {}
    for image in split.images:
        fault = _fault(image) if known is None else known.get(image.id)
        if fault is not None:
            faults[image.id] = fault
            problems.report(fault)
    if record is not None and known is None and write_record:
        _remember(record, split, mark, faults)
    return [image for image in split.images if image.id not in faults]


def fingerprint(split: Split) -> str:
    """What changes with a data set: the SHA-256 of its json, and of when each folder of its images last changed.

    A folder changes when a file is put into it, taken out or renamed. A picture that is overwritten in place does not
    show; the data set finds one whose size has become another.
    """
    digest = hashlib.sha256(sha256_of(split.annotations).encode())
    for folder in sorted({image.path.parent for image in split.images}):
        changed = folder.stat().st_mtime_ns if folder.is_dir() else None
        digest.update(f"\n{folder.resolve()} {changed}".encode())
    return digest.hexdigest()


def _fault(image: ImageEntry) -> str | None:
    """What is wrong with an image's file, if anything is. Its pixels are decoded when they are used."""
    fault = None
    try:
        with Image.open(image.path) as picture:
            if picture.size != (image.width, image.height):
                found = f"{picture.size[0]}x{picture.size[1]}"
                fault = f"the image is {found} pixels, its entry says {image.width}x{image.height}"
    except FileNotFoundError:
        fault = "no such image"
    except Exception as error:  # PIL raises many kinds on a file that is not an image
        fault = f"not a readable image: {one_line(error)}"
    return None if fault is None else f"{image.path}: {fault} (image id {image.id})"


def _recall(record: Path, split: Split, mark: str) -> Faults | None:
    """The faults that a check of the data set with this fingerprint found; None where none is remembered."""
    entry = _read(record).get(str(split.annotations.resolve()))
    if not isinstance(entry, dict) or entry.get("fingerprint") != mark:
        return None
    return {int(image_id): fault for image_id, fault in entry["faults"].items()}


def _remember(record: Path, split: Split, mark: str, faults: Faults) -> None:
    """Add a check to a record, beside those of other jsons."""
    entry = {"fingerprint": mark, "images": len(split.images), "faults": faults}
    content = {**_read(record), str(split.annotations.resolve()): entry}
    write_text(record, json.dumps(content, indent=1) + "\n")


def _read(record: Path) -> dict[str, Any]:
    """What a record holds: nothing where it is absent or damaged, since a check can always be made again."""
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
