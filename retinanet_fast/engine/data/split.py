"""A split of a data set, in packed arrays: a hundred thousand images and a million boxes in some 60 MB.

Worker processes share arrays as they are; Python's objects would be copied by each, since to count a reference is to
write to its page (https://github.com/pytorch/pytorch/issues/13246).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np


class Category(NamedTuple):
    """A category as the data set has it; ids may have gaps."""

    id: int
    name: str


class ImageEntry(NamedTuple):
    """An image of the data set, with the file that holds it."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


class Box(NamedTuple):
    """An annotation: its upper left corner and its size in pixels, clipped to the image."""

    x: float
    y: float
    width: float
    height: float
    category_id: int
    area: float
    crowd: bool


class Location(NamedTuple):
    """Where a split is, and in which of ``sources.FORMATS``: its json, or another file that stands for it in errors,
    and the folders in which its images may be."""

    annotations: Path
    image_folders: tuple[Path, ...]
    format: str = "coco"


class Texts(Sequence[str]):
    """N texts in one array of bytes."""

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content = content  # [bytes] uint8
        self.ends = ends  # [N] int64, in bytes

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack texts, in their order."""
        content, ends = bytearray(), []
        for text in texts:
            content += text.encode("utf-8", "surrogatepass")
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), dtype=np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index > 0 else 0
        return self.content[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogatepass")

    def rows(self, which: np.ndarray) -> Texts:
        """The texts of an index or of a mask."""
        numbers = np.arange(len(self))[which]
        return Texts.of(self[int(i)] for i in numbers)


class Images(Sequence[ImageEntry]):
    """N images, in the data set's order; an ``ImageEntry`` is made when it is asked for."""

    def __init__(self, ids: np.ndarray, sizes: np.ndarray, names: Texts, folder: Path) -> None:
        self.ids = ids  # [N] int64
        self.sizes = sizes  # [N, 2] int32: width, height
        self.names = names  # [N], relative to the folder
        self.folder = folder

    @classmethod
    def of(cls, entries: Iterable[tuple[int, str, int, int]], folder: Path = Path()) -> Images:
        """From (id, name, width, height) of each image."""
        rows = list(entries)
        ids = np.array([row[0] for row in rows], dtype=np.int64)
        sizes = np.array([row[2:] for row in rows], dtype=np.int32).reshape(-1, 2)
        return cls(ids, sizes, Texts.of(row[1] for row in rows), folder)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> ImageEntry: ...

    @overload
    def __getitem__(self, index: slice) -> Images: ...

    def __getitem__(self, index: int | slice) -> ImageEntry | Images:
        if isinstance(index, slice):
            return self.rows(np.arange(len(self))[index])
        name = self.names[index]
        width, height = self.sizes[index].tolist()
        return ImageEntry(int(self.ids[index]), name, self.folder / name, width, height)

    def __iter__(self) -> Iterator[ImageEntry]:
        return (self[index] for index in range(len(self)))

    def rows(self, which: np.ndarray) -> Images:
        """The images of an index or of a mask."""
        return Images(self.ids[which], self.sizes[which], self.names.rows(which), self.folder)

    def at(self, folder: Path) -> Images:
        """The same images in another folder."""
        return Images(self.ids, self.sizes, self.names, folder)

    def index_of(self, ids: np.ndarray) -> np.ndarray:
        """The index of each id, -1 where there is no such image."""
        return index_of(self.ids, ids)


@dataclass(frozen=True, eq=False)
class Boxes:
    """M annotations, those of an image side by side and in the data set's order."""

    xywh: np.ndarray  # [M, 4] float64: x, y, width, height in pixels, clipped to the image
    category_ids: np.ndarray  # [M] int64
    areas: np.ndarray  # [M] float64, as annotated: of the mask where there is one
    crowd: np.ndarray  # [M] bool

    @classmethod
    def of(cls, boxes: Iterable[Box]) -> Boxes:
        """Pack boxes, in their order."""
        rows = list(boxes)
        return cls(
            np.array([row[:4] for row in rows], dtype=np.float64).reshape(-1, 4),
            np.array([row.category_id for row in rows], dtype=np.int64),
            np.array([row.area for row in rows], dtype=np.float64),
            np.array([row.crowd for row in rows], dtype=bool),
        )

    def __len__(self) -> int:
        return len(self.areas)

    def __iter__(self) -> Iterator[Box]:
        columns = (self.category_ids.tolist(), self.areas.tolist(), self.crowd.tolist())
        for xywh, category_id, area, crowd in zip(self.xywh.tolist(), *columns):
            x, y, width, height = xywh
            yield Box(x, y, width, height, category_id, area, crowd)

    def rows(self, which: np.ndarray | slice) -> Boxes:
        """The boxes of a slice, an index or a mask."""
        return Boxes(self.xywh[which], self.category_ids[which], self.areas[which], self.crowd[which])


@dataclass(frozen=True, eq=False)
class Split:
    """One split, checked: every box belongs to an image and a category and lies inside its image."""

    annotations: Path  # the file, or folder, that errors name
    categories: list[Category]
    images: Images
    boxes: Boxes  # of image k: rows starts[k] to starts[k + 1]
    starts: np.ndarray  # [N + 1] int64
    location: Location | None = None  # where it can be read again

    @classmethod
    def of(
        cls,
        annotations: Path,
        categories: list[Category],
        images: Images | None = None,
        boxes: Boxes | None = None,
        owners: np.ndarray | None = None,
    ) -> Split:
        """From boxes in any order; by default without images or boxes.

        Args:
            owners: ``[M]``, the index of each box's image.
        """
        images = Images.of([]) if images is None else images
        boxes = Boxes.of([]) if boxes is None else boxes
        owners = np.zeros(0, dtype=np.int64) if owners is None else owners
        order = np.argsort(owners, kind="stable")
        starts = np.searchsorted(owners[order], np.arange(len(images) + 1)).astype(np.int64)
        return cls(annotations, categories, images, boxes.rows(order), starts)

    def boxes_of(self, index: int) -> Boxes:
        """The boxes of the image at an index."""
        return self.boxes.rows(slice(int(self.starts[index]), int(self.starts[index + 1])))

    @property
    def owners(self) -> np.ndarray:
        """``[M]`` int64, the index of each box's image."""
        return np.repeat(np.arange(len(self.images)), np.diff(self.starts))

    def first(self, count: int) -> Split:
        """The split of its first images."""
        return self.of_images(np.arange(min(count, len(self.images))))

    def of_images(self, which: np.ndarray) -> Split:
        """The split of some of its images, by an index or a mask; all categories stay."""
        numbers = np.arange(len(self.images))[which]
        counts = np.diff(self.starts)[numbers]
        starts = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        # Row r of image k's boxes was row r + (old start - new start).
        rows = np.arange(starts[-1]) + np.repeat(self.starts[numbers] - starts[:-1], counts)
        images, boxes = self.images.rows(numbers), self.boxes.rows(rows)
        return replace(self, images=images, boxes=boxes, starts=starts)

    def digest(self) -> str:
        """What changes with any of its images, boxes and categories, but not with their folder: a SHA-256."""
        digest = hashlib.sha256(repr(self.categories).encode())
        images, boxes = self.images, self.boxes
        arrays = (images.ids, images.sizes, images.names.content, images.names.ends, self.starts)
        for array in (*arrays, boxes.xywh, boxes.category_ids, boxes.areas, boxes.crowd):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def count_boxes(self) -> int:
        """Number of boxes, crowd boxes included."""
        return len(self.boxes)


def index_of(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Where in ``known``, whose values differ, each value of ``wanted`` is; -1 where it is not."""
    if len(known) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], wanted).clip(max=len(known) - 1)
    return np.where(known[order][place] == wanted, order[place], -1).astype(np.int64)
