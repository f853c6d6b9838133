"""The images of a split as tensors, with their boxes; for training, augmented."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from retinanet_fast.engine.data.augment import Augmented, augment, check_augmentation
from retinanet_fast.engine.data.decode import Decoded, Decoding, WrongSize, decode
from retinanet_fast.engine.data.image_cache import ImageCache
from retinanet_fast.engine.data.order import Draw
from retinanet_fast.engine.data.split import Category, ImageEntry, Split
from retinanet_fast.engine.errors import InputError, Problems, one_line
from retinanet_fast.engine.recipe import Recipe


@dataclass
class Sample:
    """A decoded image with its boxes."""

    image: Tensor  # [3, H, W] uint8, RGB
    boxes: Tensor  # [G, 4] float32, xyxy in pixels of `image`
    labels: Tensor  # [G] int64, 1 is the first category
    image_id: int
    size: tuple[int, int]  # (width, height) of the whole image
    scale: int = 1  # a pixel of `image` stands for scale x scale of the whole image

    def pin_memory(self) -> Sample:
        """Called by the loader where batches go to a GPU."""
        image, boxes, labels = (tensor.pin_memory() for tensor in (self.image, self.boxes, self.labels))
        return dataclasses.replace(self, image=image, boxes=boxes, labels=labels)


@dataclass
class BadImage:
    """An image whose pixels cannot be decoded. It is passed on, not raised, since it may come from a worker process."""

    message: str
    image_id: int


def read_image(path: Path, orientation: str = "auto") -> Tensor:
    """Decode an image file to uint8 RGB [3, H, W], turned as its EXIF orientation says unless that is "stored".

    Raises:
        OSError, SyntaxError, ValueError: missing, truncated or not an image.
    """
    return decode(path, orientation=orientation).image


def to_model(images: list[Tensor], device: torch.device) -> list[Tensor]:
    """uint8 images as the model takes them: on the device, float32 in [0, 1]."""
    # Decoded as [H, W, 3]; a CPU normalises planes several times faster.
    plain = torch.contiguous_format
    return [
        image.to(device, non_blocking=True).to(torch.float32, memory_format=plain).div_(255)
        for image in images
    ]


class CocoDataset(Dataset["Sample | BadImage"]):
    """The images of a split, as they are by index, and ``augmented`` for training; without crowd boxes, which are not
    single objects to learn. All of it is tensors and arrays, which worker processes share.

    Args:
        split: what to read.
        categories: the model's categories; label i + 1 is ``categories[i]``.
        recipe: says how ``augmented`` changes images, and whether images without boxes count; None for evaluation.
        decoding: how files are decoded; by default as the recipe trains, or whole.

    Raises:
        InputError: the split has a category that the model does not know, or the recipe needs a library that is absent.
    """

    def __init__(
        self,
        split: Split,
        categories: list[Category],
        recipe: Recipe | None = None,
        decoding: Decoding | None = None,
    ) -> None:
        ids = category_ids(categories, split)
        self.annotations = split.annotations
        self.recipe = recipe
        self.cache: ImageCache | None = None
        objects = ~split.boxes.crowd
        if recipe is not None:
            check_augmentation(recipe)
            if not recipe.keep_empty:
                split = split.of_images(np.bincount(split.owners[objects], minlength=len(split.images)) > 0)
                objects = ~split.boxes.crowd
        self.images = split.images
        self.decoding = decoding or (Decoding.of(recipe, training=True) if recipe else Decoding())
        corners = split.boxes.xywh[objects]
        corners[:, 2:] += corners[:, :2]
        self._boxes = torch.from_numpy(corners.astype(np.float32))
        label_of = {id: label for label, id in enumerate(ids, 1) if id is not None}
        known, which = np.unique(split.boxes.category_ids[objects], return_inverse=True)
        labels = np.array([label_of[id] for id in known.tolist()], dtype=np.int64)
        self._labels = torch.from_numpy(labels[which])
        counts = np.bincount(split.owners[objects], minlength=len(self.images))
        self._ends = torch.from_numpy(np.cumsum(counts))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample | BadImage:
        """An image as it is."""
        entry = self.images[index]
        found = self._decoded(entry)
        if isinstance(found, BadImage):
            return found
        return Sample(found.image, *self._targets(index, found.scale), entry.id, found.size, found.scale)

    def augmented(self, draw: Draw) -> Augmented | BadImage:
        """An image as the recipe augments it in an epoch: a function of the recipe, the epoch and the image alone."""
        assert self.recipe is not None
        entry = self.images[draw.index]
        found = self._decoded(entry)
        if isinstance(found, BadImage):
            return found
        boxes, labels = self._targets(draw.index, found.scale)
        return augment(found.image, boxes, labels, self.recipe, draw.epoch, entry.id)

    def _decoded(self, entry: ImageEntry) -> Decoded | BadImage:
        kept = self.cache.get(entry.id) if self.cache is not None else None
        if kept is not None:
            return kept
        try:
            found = self.decoding(entry.path, (entry.width, entry.height))
        except WrongSize as error:
            return BadImage(f"{entry.path}: {error} (image id {entry.id})", entry.id)
        except Exception as error:  # PIL raises many kinds on a damaged file
            return BadImage(
                f"{entry.path}: not a readable image: {one_line(error)} (image id {entry.id})", entry.id
            )
        if self.cache is not None:
            self.cache.put(entry.id, found)
        return found

    def _targets(self, index: int, scale: int) -> tuple[Tensor, Tensor]:
        own = slice(int(self._ends[index - 1]) if index > 0 else 0, int(self._ends[index]))
        return (self._boxes[own] / scale if scale > 1 else self._boxes[own]), self._labels[own]


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
