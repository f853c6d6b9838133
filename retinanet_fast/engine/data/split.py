"""A split of a data set, as its json has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Category(NamedTuple):
    """A category as the json has it; ids may have gaps."""

    id: int
    name: str


class ImageEntry(NamedTuple):
    """An image of the json, with the file that holds it."""

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
    """Where a split is: its json, and the folders in which its images may be."""

    annotations: Path
    image_folders: tuple[Path, ...]


@dataclass
class Split:
    """One split, checked: every box belongs to an image and a category and lies inside its image."""

    annotations: Path
    categories: list[Category]
    images: list[ImageEntry]
    boxes: dict[int, list[Box]] = field(default_factory=dict)

    def count_boxes(self) -> int:
        """Number of boxes, crowd boxes included."""
        return sum(len(boxes) for boxes in self.boxes.values())
