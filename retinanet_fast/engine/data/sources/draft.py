"""A split in the making, for the forms that have a file for each picture: the same rules for boxes as for a json's."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet_fast.engine.data.box_rules import LONGEST_SIDE, box_fault, clip
from retinanet_fast.engine.data.split import Boxes, Category, Images, Split
from retinanet_fast.engine.errors import InputError, Problems


class Draft:
    """Collects images and boxes, and reports those that cannot be used.

    Args:
        source: the file that stands for the split in errors.
        folder: where the images' names begin.
    """

    def __init__(self, source: Path, folder: Path, problems: Problems) -> None:
        self.source, self.folder, self.problems = source, folder, problems
        self._images: list[tuple[int, str, int, int]] = []
        self._xywh, self._categories = array("d"), array("q")
        self._crowd, self._owners = array("b"), array("q")

    def add_image(self, image_id: int, name: str, width: int, height: int) -> None:
        """An image, to which the boxes that follow belong."""
        self._images.append((image_id, name, width, height))

    def add_box(self, where: str, xywh: Sequence[float], category_id: int, crowd: bool = False) -> None:
        """A box of the latest image: its upper left corner and its size in pixels.

        Raises:
            InputError: it has no area, or is outside its image, and ``problems`` does not skip it.
        """
        fault = box_fault(xywh, self._images[-1][2:])
        if fault is not None:
            self.problems.report(f"{where}: {fault}")
            return
        self._xywh.extend(xywh)
        self._categories.append(category_id)
        self._crowd.append(crowd)
        self._owners.append(len(self._images) - 1)

    def split(self, categories: list[Category]) -> Split:
        """What was collected.

        Raises:
            InputError: there are no images, or no categories.
        """
        if not self._images:
            raise InputError(f"{self.source}: no usable image: the data set is empty")
        if not categories:
            raise InputError(f"{self.source}: no categories: the data set is empty")
        images, owners = Images.of(self._images, self.folder), np.array(self._owners, dtype=np.int64)
        xywh = np.array(self._xywh, dtype=np.float64).reshape(-1, 4)
        xywh = clip(xywh, images.sizes[owners].astype(np.float64))
        boxes = Boxes(
            xywh,
            np.array(self._categories, dtype=np.int64),
            xywh[:, 2] * xywh[:, 3],
            np.array(self._crowd, dtype=bool),
        )
        return Split.of(self.source, categories, images, boxes, owners)


def pixels(text: str | None) -> int | None:
    """A number of pixels of an image's side, which some programs write as 96.0; None where the text is none."""
    value = number(text)
    return int(value) if value is not None and value.is_integer() and 0 < value <= LONGEST_SIDE else None


def number(text: str | None) -> float | None:
    """A finite number; None where the text is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty, without the space around them.

    Raises:
        InputError: the file cannot be read, or is not text.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise InputError(f"{path}: expected text in UTF-8, found other bytes") from None
    return [line for line in map(str.strip, text.splitlines()) if line]
