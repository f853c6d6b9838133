"""The pictures of the page: where they are, how they are turned, and small ones to put into it."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import numpy as np
from PIL import Image

from retinanet_fast.engine.data.decode import ORIENTATION, Size, decode
from retinanet_fast.engine.data.split import ImageEntry, Images

Result = TypeVar("Result")
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


def turns_of(images: Images, orientation: str) -> np.ndarray:
    """``[N]`` uint8: the EXIF orientation, 2 to 8, of each photo that was read as it is stored, while browsers show it
    turned; else 0. Of files that cannot be read too.

    Args:
        orientation: the recipe's, as ``decode`` takes it.
    """
    if orientation == "upright":
        return np.zeros(len(images), dtype=np.uint8)
    photos = (entry for entry in images if entry.file_name.lower().endswith(TURNED))
    turns = dict(_in_threads(_turn, photos))
    return np.array([turns.get(image_id, 0) for image_id in images.ids.tolist()], dtype=np.uint8)


def thumbnails(images: Images, orientation: str) -> list[str]:
    """Each image as a JPEG of at most 640 pixels a side, in base64, the way up that it was read; "" where it cannot
    be."""
    return list(_in_threads(partial(_thumbnail, orientation), iter(images)))


def _in_threads(work: Callable[[ImageEntry], Result], entries: Iterator[ImageEntry]) -> Iterator[Result]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, entries)


def _turn(entry: ImageEntry) -> tuple[int, int]:
    try:
        with Image.open(entry.path) as picture:
            turn = picture.getexif().get(ORIENTATION, 0)
            stored = picture.size == (entry.width, entry.height)
    except Exception:  # PIL raises many kinds; the page shows that the picture is not there
        return entry.id, 0
    return entry.id, turn if stored and turn in range(2, 9) else 0


def _thumbnail(orientation: str, entry: ImageEntry) -> str:
    try:
        decoded = decode(entry.path, (entry.width, entry.height), orientation, _smaller)
    except Exception:  # as above
        return ""
    picture = Image.fromarray(decoded.image.permute(1, 2, 0).numpy())
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _smaller(size: Size) -> Size:
    scale = min(1.0, SIDE / max(size))
    return math.ceil(size[0] * scale), math.ceil(size[1] * scale)
