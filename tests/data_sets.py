"""Data sets for the program's tests: real ones where they exist, tiny ones written on the spot; and a checkpoint."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from retinanet_fast.engine.checkpoint import Checkpoint
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models.weights import Settings

DATA = Path(os.environ.get("RETINANET_FAST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]


def real(name: str) -> Path:
    """A folder of real data, or a skip with the reason."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there (RETINANET_FAST_DATA names the folder of real data)")
    return folder


def document() -> dict[str, Any]:
    """Two images of 32x24 and 24x32 pixels; the first has two boxes, one of them a crowd."""
    return copy.deepcopy(
        {
            "images": [
                {"id": 7, "file_name": "a.png", "width": 32, "height": 24},
                {"id": 9, "file_name": "b.png", "width": 24, "height": 32},
            ],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "area": 80, "iscrowd": 0},
                {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 32, 24], "area": 700, "iscrowd": 1},
            ],
            "categories": CATEGORIES,
        }
    )


def write(folder: Path, content: Any, split: str = "train", images: str = "images") -> Path:
    """Write a data set's json, and a picture for each of its images; returns the json's path."""
    path = folder / "annotations" / f"instances_{split}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for index, image in enumerate(content["images"] if isinstance(content, dict) else []):
        file = folder / images / image["file_name"]
        file.parent.mkdir(parents=True, exist_ok=True)
        # Left half dark, right half light: a flip shows.
        picture = Image.new("RGB", (image["width"], image["height"]), (10 + index, 20, 30))
        picture.paste((200, 210, 220), (image["width"] // 2, 0, image["width"], image["height"]))
        picture.save(file)
    return path


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def checkpoint(value: float = 1.0, **recipe: Any) -> Checkpoint:
    """A small checkpoint of every field, whose weights are ``value``."""
    return Checkpoint(
        model={"weight": torch.full((2, 3), value), "bias": torch.zeros(2)},
        recipe=Recipe(arch="resnet18", **recipe),
        categories=[Category(2, "cat"), Category(5, "dög")],
        epoch=3,
        optimizer={"state": {0: {"step": torch.tensor(4.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        history=[{"epoch": 1, "AP": 0.5, "curve": [[1.0, 2.0, 3.0]]}],
        settings=Settings(frozen_eps=0.25),
    )


def with_squares(folder: Path, count: int, tall: Callable[[int], bool] = lambda _: False) -> Path:
    """A data set of ``count`` images of 64x48 or 48x64 pixels, ids from 1, each with a red square on blue under its
    box; returns the folder of the pictures."""
    images, annotations = [], []
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    for index in range(count):
        width, height = (48, 64) if tall(index) else (64, 48)
        x, y, side = 4 + index % 7, 6 + index % 5, 16 + index % 3
        picture = Image.new("RGB", (width, height), (0, 0, 255))
        picture.paste((255, 0, 0), (x, y, x + side, y + side))
        picture.save(pictures / f"{index}.png")
        images.append({"id": index + 1, "file_name": f"{index}.png", "width": width, "height": height})
        bbox = [x, y, side, side]
        annotations.append(
            {"id": index + 1, "image_id": index + 1, "category_id": 2 + 3 * (index % 2), "bbox": bbox}
        )
    path = folder / "annotations" / "instances_train.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return pictures
