"""A COCO json with all that COCO's has: polygons, run lengths of crowds, keypoints of persons, categories with gaps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.data_scale.sizes import Scale, SplitScale, picture_sizes

CATEGORY_IDS = [id for id in range(1, 91) if id not in {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}]
PERSON = CATEGORY_IDS[0]
PERSONS = 0.3  # of all boxes; the other categories share the rest as 1 / rank
EMPTY = 0.01  # of the images have no box
CROWDS = 0.012  # of the boxes
SMALLEST, LARGEST = 8.0, 0.9  # a box's side: pixels, and of the image's side
KEYPOINTS = 17
BLOCK = 5000  # annotations that are made and written at a time


@dataclass
class SplitLayout:
    """The images of a split and the boxes in them."""

    ids: NDArray[np.int64]  # [N], in no order, as COCO's
    sizes: NDArray[np.int64]  # [N, 2]
    names: list[str]  # [N], a folder and a file
    owners: NDArray[np.int64]  # [M], the index of each box's image, in no order


def layout(scale: Scale, split: SplitScale, generator: np.random.Generator) -> SplitLayout:
    """Draw images and how many boxes each has: most have few, some dozens, one in a hundred none."""
    count = split.images
    ids = generator.choice(np.arange(1, 5 * count + 1), count, replace=False)
    names = [f"{id % scale.folders}/{id:012d}.jpg" for id in ids.tolist()]
    filled = np.flatnonzero(generator.random(count) >= EMPTY)[: split.boxes]
    share = generator.gamma(0.8, size=len(filled))
    more = generator.multinomial(split.boxes - len(filled), share / share.sum())
    owners = generator.permutation(np.repeat(filled, 1 + more))
    return SplitLayout(ids, picture_sizes(generator, count) // scale.smaller, names, owners)


def write_annotations(
    path: Path, scale: Scale, split: SplitScale, where: SplitLayout, generator: np.random.Generator
) -> None:
    """Write the json of a split, a block of annotations at a time."""
    encode = json.JSONEncoder(separators=(",", ":")).encode
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info":{"description":"generated","year":2017},"licenses":[],"images":')
        file.write(encode(list(_images(split.name, where))))
        file.write(',"annotations":[')
        for number, block in enumerate(_blocks(scale, split, where, generator)):
            file.write("," * (number > 0) + encode(block)[1:-1])
        file.write('],"categories":' + encode(list(_categories())) + "}")


def _images(folder: str, where: SplitLayout) -> Iterator[dict[str, Any]]:
    for id, name, (width, height) in zip(where.ids.tolist(), where.names, where.sizes.tolist()):
        yield {
            "license": id % 8 + 1,
            "file_name": name,
            "coco_url": f"http://images.example/{folder}/{name}",
            "height": height,
            "width": width,
            "date_captured": "2013-11-14 11:18:45",
            "flickr_url": f"http://farm{id % 9}.example/{id % 9999}/{id:010d}_{id % 65521:010x}_z.jpg",
            "id": id,
        }


def _categories() -> Iterator[dict[str, Any]]:
    for id in CATEGORY_IDS:
        more = {"keypoints": [f"point {k}" for k in range(KEYPOINTS)]} if id == PERSON else {}
        yield {"supercategory": f"group {id // 8}", "id": id, "name": f"category {id}", **more}


def _blocks(
    scale: Scale, split: SplitScale, where: SplitLayout, generator: np.random.Generator
) -> Iterator[list[dict[str, Any]]]:
    ranks = 1 / np.arange(1, len(CATEGORY_IDS))
    weights = np.concatenate(([PERSONS], (1 - PERSONS) * ranks / ranks.sum()))
    for start in range(0, split.boxes, BLOCK):
        owners = where.owners[start : start + BLOCK]
        categories = generator.choice(CATEGORY_IDS, len(owners), p=weights)
        yield list(_annotations(start + 1, where, owners, categories, scale, generator))


def _annotations(
    first_id: int,
    where: SplitLayout,
    owners: NDArray[np.int64],
    categories: NDArray[np.int64],
    scale: Scale,
    generator: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    sizes = where.sizes[owners]
    boxes = _boxes(sizes, SMALLEST / scale.smaller, generator)
    mean_points = scale.polygon_points
    counts = generator.integers(mean_points // 2, mean_points * 3 // 2 + 1, len(owners))
    polygons = _polygons(boxes, int(counts.max()), generator)
    crowds = generator.random(len(owners)) < CROWDS
    keypoints = _keypoints(boxes, generator)
    areas = (0.7 * boxes[:, 2] * boxes[:, 3]).round(4).tolist()
    columns = (where.ids[owners].tolist(), categories.tolist(), boxes.tolist(), counts.tolist(), areas)
    for row, (image_id, category_id, box, points, area) in enumerate(zip(*columns)):
        width, height = sizes[row].tolist()
        crowd = bool(crowds[row])
        outline: Any = [polygons[row, :points].ravel().tolist()]
        entry: dict[str, Any] = {
            "segmentation": {"counts": _run_lengths(width * height, 4 * points), "size": [height, width]}
            if crowd
            else outline,
            "area": area,
            "iscrowd": int(crowd),
            "image_id": image_id,
            "bbox": box,
            "category_id": category_id,
            "id": first_id + row,
        }
        if category_id == PERSON:
            entry |= {"num_keypoints": KEYPOINTS, "keypoints": keypoints[row].tolist()}
        yield entry


def _boxes(sizes: NDArray[np.int64], smallest: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """``[M, 4]`` xywh inside their images, two decimals: sides between the smallest and the largest, many small."""
    largest = LARGEST * sizes
    sides = smallest * (largest / smallest) ** (generator.random((len(sizes), 1)) ** 1.3)
    sides = np.minimum(sides * generator.uniform(0.6, 1.4, sides.shape), largest).round(2)
    corners = (generator.random(sides.shape) * (sizes - sides - 0.01)).round(2)
    return np.concatenate((corners, sides), axis=1)


def _polygons(boxes: NDArray[np.float64], points: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """``[M, points, 2]``: rough ellipses within the boxes, two decimals."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    circle = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    radius = generator.uniform(0.35, 0.5, (len(boxes), points, 1))
    found: NDArray[np.float64] = boxes[:, None, :2] + (0.5 + radius * circle) * boxes[:, None, 2:]
    return found.round(2)


def _keypoints(boxes: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.int64]:
    """``[M, 51]``: x, y and visibility of each point."""
    places = boxes[:, None, :2] + generator.random((len(boxes), KEYPOINTS, 2)) * boxes[:, None, 2:]
    visible = generator.integers(0, 3, (len(boxes), KEYPOINTS, 1))
    return np.concatenate((places.astype(np.int64), visible), axis=2).reshape(len(boxes), -1)


def _run_lengths(pixels: int, runs: int) -> list[int]:
    """Runs of equal length, whose sum is the number of pixels, as COCO's uncompressed masks have it."""
    return [pixels // runs] * (runs - 1) + [pixels - pixels // runs * (runs - 1)]
