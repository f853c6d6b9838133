"""Finds a split's image files by listing their folders; none is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinanet_fast.engine.data.split import Images, Split
from retinanet_fast.engine.errors import Problems

LOOKED_FOR = 20  # images that decide which folder it is


def find_files(split: Split, folders: tuple[Path, ...], problems: Problems) -> Split:
    """The split of the images whose files are there, in the folder that holds most of the first ones; the others are
    reported."""
    images = split.images.at(image_folder(split.images, folders))
    here = _present(images)
    for index in np.flatnonzero(~here).tolist():
        image = images[index]
        problems.report(f"{image.path}: no such image (image id {image.id})")
    found = Split(split.annotations, split.categories, images, split.boxes, split.starts)
    return found if here.all() else found.of_images(here)


def image_folder(images: Images, folders: Sequence[Path]) -> Path:
    """The folder that holds most of the first images (one missing file must not decide)."""
    present = [folder for folder in folders if folder.is_dir()] or list(folders)
    names = images.names[:LOOKED_FOR]
    return max(present, key=lambda folder: sum(os.path.isfile(folder / name) for name in names))


def _present(images: Images) -> np.ndarray:
    """``[N]`` bool: which images' files are there. A listing of a folder costs less than a look at each file."""
    listed: dict[str, frozenset[str]] = {}
    here = np.ones(len(images), dtype=bool)
    for index, name in enumerate(images.names):
        parent, _, own = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _names_in(images.folder / parent)
        # Not listed under this very name, it may still be found, where the system ignores case, for example.
        if own not in listed[parent] and not os.path.isfile(images.folder / name):
            here[index] = False
    return here


def _names_in(folder: Path) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()
