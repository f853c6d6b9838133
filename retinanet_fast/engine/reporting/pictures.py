"""Held-out images with the truth on the left and the detections on the right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from PIL import Image
from torch import nn

from retinanet_fast.engine.data.coco import Category, ImageEntry, Split
from retinanet_fast.engine.data.dataset import category_ids, read_image, to_model
from retinanet_fast.engine.evaluation.evaluate import run_model
from retinanet_fast.engine.prediction.draw import Label, draw_boxes
from retinanet_fast.engine.prediction.predict import picture_labels, to_picture
from retinanet_fast.engine.recipe import Recipe

PICTURES = 12
# Only what the model is fairly sure of is drawn.
SCORE = 0.4
# Width in pixels of one half of a picture, and what is between the halves.
WIDTH, GAP = 340, 6
COLUMNS = 3


class Compared(NamedTuple):
    """The picture of an image, truth and detections side by side."""

    image_id: int
    picture: Image.Image


def compare(
    model: nn.Module, split: Split, categories: list[Category], recipe: Recipe, device: torch.device
) -> list[Compared]:
    """The first images of a split, at most 12: always the same ones, and not chosen.

    Args:
        model: in evaluation mode.
        categories: the model's.
    """
    label_of = {id: label for label, id in enumerate(category_ids(categories, split)) if id is not None}
    compared = []
    for entry in split.images[:PICTURES]:
        try:
            image = read_image(entry.path)
        except (OSError, SyntaxError, ValueError):
            continue  # the evaluation has told
        output = run_model(model, to_model([image], device), recipe)[0]
        truth = _truth(split, entry, categories, label_of)
        found = picture_labels(output, categories, SCORE)
        compared.append(Compared(entry.id, _side_by_side(to_picture(image), truth, found)))
    return compared


def grid(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width in rows of three, on white."""
    rows = [pictures[first : first + COLUMNS] for first in range(0, len(pictures), COLUMNS)]
    heights = [max(picture.height for picture in row) for row in rows]
    width = max(picture.width for picture in pictures)
    columns, gap = min(COLUMNS, len(pictures)), 3 * GAP
    sheet = Image.new("RGB", (columns * (width + gap) - gap, sum(heights) + gap * (len(rows) - 1)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * (width + gap), top))
        top += height + gap
    return sheet


def _truth(
    split: Split, entry: ImageEntry, categories: list[Category], label_of: dict[int, int]
) -> list[Label]:
    labels = []
    for box in split.boxes.get(entry.id, []):
        label = label_of[box.category_id]
        corners = (box.x, box.y, box.x + box.width, box.y + box.height)
        labels.append(Label(corners, categories[label].name, label))
    return labels


def _side_by_side(picture: Image.Image, truth: list[Label], found: list[Label]) -> Image.Image:
    scale = WIDTH / picture.width
    left, right = (draw_boxes(picture, labels, scale) for labels in (truth, found))
    result = Image.new("RGB", (2 * WIDTH + GAP, left.height), "white")
    result.paste(left, (0, 0))
    result.paste(right, (WIDTH + GAP, 0))
    return result
