"""The pictures of the page: where they are, how they are turned, and small ones to put into it."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps

from retinanet_fast.engine.data.split import ImageEntry, Images

Result = TypeVar("Result")
EXIF_ORIENTATION = 0x0112
SIDE = 640  # longest, of a picture that goes into the page
# EXIF is in these formats' headers; a png's comes after its pixels, and browsers differ.
TURNED = (".jpg", ".jpeg", ".webp")


def folder_address(folder: Path, page: Path) -> str:
    """Where a page finds a folder: relative to the page where both are on one drive, else a file URL; ends in "/"."""
    folder, start = folder.resolve(), page.resolve().parent
    try:
        return quote(Path(os.path.relpath(folder, start)).as_posix()) + "/"
    except ValueError:  # another drive
        return folder.as_uri() + "/"


def turns_of(images: Images) -> np.ndarray:
    """``[N]`` uint8: the EXIF orientation, 2 to 8, of each photo whose entry has the size of the stored pixels, so that
    its boxes do not go with what browsers show; else 0. Of files that cannot be read too."""
    names = (entry for entry in images if entry.file_name.lower().endswith(TURNED))
    turns = dict(_in_threads(_turn, names))
    return np.array([turns.get(image_id, 0) for image_id in images.ids.tolist()], dtype=np.uint8)


def thumbnails(images: Images) -> list[str]:
    """Each image as a JPEG of at most 640 pixels a side, in base64; "" where it cannot be read. They are of the pixels
    that the boxes are of, as the entry's size tells."""
    return list(_in_threads(_thumbnail, iter(images)))


def _in_threads(work: Callable[[ImageEntry], Result], entries: Iterator[ImageEntry]) -> Iterator[Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, entries)


def _turn(entry: ImageEntry) -> tuple[int, int]:
    try:
        with Image.open(entry.path) as picture:
            turn = picture.getexif().get(EXIF_ORIENTATION, 0)
            stored = picture.size == (entry.width, entry.height)
    except Exception:  # PIL raises many kinds; the page shows that the picture is not there
        return entry.id, 0
    return entry.id, turn if stored and turn in range(2, 9) else 0


def _thumbnail(entry: ImageEntry) -> str:
    try:
        with Image.open(entry.path) as picture:
            upright = picture.size != (entry.width, entry.height)
            picture.draft("RGB", (SIDE, SIDE))
            small = (ImageOps.exif_transpose(picture) if upright else picture).convert("RGB")
            small.thumbnail((SIDE, SIDE))
    except Exception:  # as above
        return ""
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode("ascii")
