"""Held-out images with the truth on the left and the detections on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from retinanet_fast.engine.data.decode import decode
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.analysis import SCORE
from retinanet_fast.engine.evaluation.results import Detected
from retinanet_fast.engine.prediction.draw import Label, draw_boxes
from retinanet_fast.engine.prediction.predict import to_picture

PICTURES = 12
# Width in pixels of one half of a picture, and what is between the halves.
WIDTH, GAP = 340, 6
COLUMNS = 3


class Compared(NamedTuple):
    """The picture of an image, truth and detections side by side."""

    image_id: int
    picture: Image.Image


def compare(split: Split, found: Detected) -> list[Compared]:
    """The first images of a split that were read, at most 12: always the same ones, and not chosen.

    Args:
        found: what a model detects on the split.
    """
    read = np.flatnonzero(np.isin(split.images.ids, found.image_ids))[:PICTURES].tolist()
    index_of = {category.id: index for index, category in enumerate(split.categories)}
    return [
        _compare(split, index, _found(split, found, split.images[index].id, index_of), index_of)
        for index in read
    ]


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width in rows of three, on white."""
    rows = [pictures[first : first + COLUMNS] for first in range(0, len(pictures), COLUMNS)]
    heights = [max(picture.height for picture in row) for row in rows]
    width, columns, gap = pictures[0].width, min(COLUMNS, len(pictures)), 3 * GAP
    sheet = Image.new("RGB", (columns * (width + gap) - gap, sum(heights) + gap * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (width + gap), top))
        top += height + gap
    return sheet


def _compare(split: Split, index: int, found: list[Label], index_of: dict[int, int]) -> Compared:
    entry = split.images[index]
    truth = [
        _label(split, index_of[box.category_id], (box.x, box.y, box.width, box.height))
        for box in split.boxes_of(index)
    ]
    picture = to_picture(decode(entry.path, (entry.width, entry.height)).image)
    left, right = (draw_boxes(picture, labels, WIDTH / picture.width) for labels in (truth, found))
    result = Image.new("RGB", (2 * WIDTH + GAP, left.height), "white")
    result.paste(left, (0, 0))
    result.paste(right, (WIDTH + GAP, 0))
    return Compared(entry.id, result)


def _found(split: Split, found: Detected, image_id: int, index_of: dict[int, int]) -> list[Label]:
    """The detections on an image that are drawn, the highest score last."""
    results = found.results
    drawn = results.rows((results.image_id == image_id) & (results.score >= SCORE))
    return [
        _label(split, index_of[row["category_id"]], row["bbox"], f" {row['score']:.2f}")
        for row in sorted(drawn.to_list(), key=lambda row: row["score"])
    ]


def _label(split: Split, index: int, bbox: Sequence[float], score: str = "") -> Label:
    x, y, width, height = bbox
    return Label((x, y, x + width, y + height), split.categories[index].name + score, index)
