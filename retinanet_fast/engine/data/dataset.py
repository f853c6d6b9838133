"""The images of a split as tensors, with their boxes; for training, augmented."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from retinanet_fast.engine.data.augment import Augmented, augment, check_augmentation
from retinanet_fast.engine.data.coco import Category, ImageEntry, Split
from retinanet_fast.engine.data.image_cache import ImageCache
from retinanet_fast.engine.data.order import Draw
from retinanet_fast.engine.errors import InputError, Problems, one_line
from retinanet_fast.engine.recipe import Recipe


@dataclass
class Sample:
    """A decoded image with its boxes."""

    image: Tensor  # [3, H, W] uint8, RGB
    boxes: Tensor  # [G, 4] float32, xyxy in pixels
    labels: Tensor  # [G] int64, 1 is the first category
    image_id: int

    def pin_memory(self) -> Sample:
        """Called by the loader where batches go to a GPU."""
        return Sample(
            self.image.pin_memory(), self.boxes.pin_memory(), self.labels.pin_memory(), self.image_id
        )


@dataclass
class BadImage:
    """An image whose pixels cannot be decoded. It is passed on, not raised, since it may come from a worker process."""

    message: str
    image_id: int


def read_image(path: Path, upright: bool = False) -> Tensor:
    """Decode an image file to uint8 RGB [3, H, W].

    Args:
        upright: turn the picture as its EXIF orientation says. Annotations refer to the stored pixels, so a data set
            is read without it.

    Raises:
        OSError, SyntaxError, ValueError: missing, truncated or not an image.
    """
    with Image.open(path) as picture:
        rgb = (ImageOps.exif_transpose(picture) if upright else picture).convert("RGB")
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def to_model(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 images as the model takes them: on the device, float32 in [0, 1]."""
    return [image.to(device, non_blocking=True).float().div_(255) for image in images]


class CocoDataset(Dataset["Sample | BadImage"]):
    """The images of a split, as they are by index, and ``augmented`` for training; without crowd boxes, which are not
    single objects to learn.

    Args:
        split: what to read.
        categories: the model's categories; label i + 1 is ``categories[i]``.
        recipe: says how ``augmented`` changes images, and whether images without boxes count; None for evaluation.

    Raises:
        InputError: the split has a category that the model does not know, or the recipe needs a library that is absent.
    """

    def __init__(self, split: Split, categories: list[Category], recipe: Recipe | None = None) -> None:
        ids = enumerate(category_ids(categories, split), 1)
        label_of = {id: label for label, id in ids if id is not None}
        self.annotations = split.annotations
        self.recipe = recipe
        self.cache: ImageCache | None = None
        self.images = split.images
        if recipe is not None:
            check_augmentation(recipe)
            if not recipe.keep_empty:
                objects = {id for id, boxes in split.boxes.items() if any(not box.crowd for box in boxes)}
                self.images = [image for image in split.images if image.id in objects]
        # One tensor of all boxes: worker processes share it, where Python's objects would be copied by each.
        found = [[box for box in split.boxes.get(image.id, []) if not box.crowd] for image in self.images]
        flat = [box for boxes in found for box in boxes]
        corners = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in flat]
        self._boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
        self._labels = torch.tensor([label_of[box.category_id] for box in flat], dtype=torch.int64)
        self._ends = list(itertools.accumulate(len(boxes) for boxes in found))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample | BadImage:
        """An image as it is."""
        entry = self.images[index]
        image = self._image(entry)
        if isinstance(image, BadImage):
            return image
        return Sample(image, *self._targets(index), entry.id)

    def augmented(self, draw: Draw) -> Augmented | BadImage:
        """An image as the recipe augments it in an epoch: a function of the recipe, the epoch and the image alone."""
        assert self.recipe is not None
        entry = self.images[draw.index]
        image = self._image(entry)
        if isinstance(image, BadImage):
            return image
        boxes, labels = self._targets(draw.index)
        return augment(image, boxes, labels, self.recipe, draw.epoch, entry.id)

    def _image(self, entry: ImageEntry) -> Tensor | BadImage:
        kept = self.cache.get(entry.id) if self.cache is not None else None
        if kept is not None:
            return kept
        try:
            image = read_image(entry.path)
        except Exception as error:  # PIL raises many kinds on a damaged file
            fault = f"not a readable image: {one_line(error)}"
        else:
            height, width = image.shape[1:]
            if (width, height) == (entry.width, entry.height):
                if self.cache is not None:
                    self.cache.put(entry.id, image)
                return image
            # The file has changed since it was checked.
            fault = f"the image is {width}x{height} pixels, its entry says {entry.width}x{entry.height}"
        return BadImage(f"{entry.path}: {fault} (image id {entry.id})", entry.id)

    def _targets(self, index: int) -> tuple[Tensor, Tensor]:
        own = slice(self._ends[index - 1] if index > 0 else 0, self._ends[index])
        return self._boxes[own], self._labels[own]


def readable(batch: Sequence[Sample | BadImage], problems: Problems) -> list[Sample]:
    """The batch's samples; its bad images are reported, which raises unless they are to be skipped."""
    for sample in batch:
        if isinstance(sample, BadImage):
            problems.report(sample.message)
    return [sample for sample in batch if isinstance(sample, Sample)]


def category_ids(categories: list[Category], split: Split) -> list[int | None]:
    """The id in ``split`` of each of the model's categories: by id where the lists agree, else by name.

    None where the split lacks the category.

    Raises:
        InputError: the split has a category that the model does not know.
    """
    if set(split.categories) <= set(categories):
        present = {category.id for category in split.categories}
        return [category.id if category.id in present else None for category in categories]
    names = [category.name for category in categories]
    for category in split.categories:
        if names.count(category.name) != 1:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise InputError(
                f"{split.annotations}: category {category.name!r} (id {category.id}) is not one that the model "
                f"was trained on ({known})"
            )
    id_of = {category.name: category.id for category in split.categories}
    return [id_of.get(name) for name in names]
