"""Splits with detections on them, drawn from a seed: what an evaluation has to get right, in one set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retinanet_fast.engine.data.split import Box, Boxes, Category, Images, Split
from retinanet_fast.engine.evaluation.results import Results, from_list


def split_of(boxes: dict[int, list[Box]], categories: int = 3) -> Split:
    """A split of images of 640x640 pixels, by id, and of categories 10, 20, ..."""
    images = Images.of([(image_id, f"{image_id}.jpg", 640, 640) for image_id in boxes])
    owners = np.array([index for index, of in enumerate(boxes.values()) for _ in of], dtype=np.int64)
    packed = Boxes.of(box for of in boxes.values() for box in of)
    return Split.of(
        Path("made.json"),
        [Category(10 * k, f"c{k}") for k in range(1, categories + 1)],
        images,
        packed,
        owners,
    )


def box(x: float, y: float, width: float, height: float, category_id: int = 10, crowd: bool = False) -> Box:
    return Box(x, y, width, height, category_id, width * height, crowd)


def detection(
    image_id: int, bbox: tuple[float, ...], score: float = 0.5, category_id: int = 10
) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), "score": score}


def results_of(*detections: dict[str, Any]) -> Results:
    return from_list(detections)


def generated(seed: int, images: int = 30, categories: int = 6) -> tuple[Split, Results]:
    """Images with and without boxes and detections, in no order of their ids, some of which float64 does not hold;
    crowds, small, medium and large objects, areas other than the box's; the last category has no boxes, the first has
    more than 100 detections on an image; equal scores, equal boxes, and detections of a category that is not there."""
    draw = np.random.default_rng(seed)
    ids = [2**55 + 1, 2**55, *draw.permutation(np.arange(1, 10 * images))[: images - 2].tolist()]
    boxes: dict[int, list[Box]] = {}
    found: list[dict[str, Any]] = []

    def corners(count: int) -> np.ndarray:
        sides = np.exp(draw.normal(4, 1, (count, 2))).clip(4, 300)
        # On a grid, so that boxes and their IoUs are often equal.
        found = np.concatenate((draw.uniform(0, 300, (count, 2)), sides), axis=1).round(-1)
        found[:, 2:] += 4
        return found

    for place, image_id in enumerate(ids):
        truth = corners(0 if place % 5 == 4 else int(draw.integers(1, 8)))
        boxes[image_id] = [
            Box(
                *row,
                int(10 * draw.integers(1, categories)),
                row[2] * row[3] * draw.choice([0.5, 1.0]),
                draw.random() < 0.15,
            )
            for row in truth.tolist()
        ]
        if place % 7 == 6:
            continue  # no detections
        near = np.repeat(truth, 4, axis=0) + draw.choice([-10, 0, 0, 10], (4 * len(truth), 4))
        near[:, 2:] = near[:, 2:].clip(4)
        of_near = np.repeat([b.category_id for b in boxes[image_id]], 4)
        far = corners(150 if place == 0 else 12)
        of_far = np.full(150, 10) if place == 0 else 10 * draw.integers(1, categories + 2, 12)
        scores = draw.integers(1, 20, len(near) + len(far)) / 20
        swap = draw.random(len(of_near)) < 0.2
        of_near = np.where(swap, 10 * draw.integers(1, categories + 1, len(of_near)), of_near)
        rows = zip(np.concatenate((near, far)).tolist(), scores.tolist(), np.append(of_near, of_far).tolist())
        found += [detection(image_id, row, score, int(category_id)) for row, score, category_id in rows]
    return split_of(boxes, categories), from_list(found)
