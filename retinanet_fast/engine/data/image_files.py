"""Finds a split's image files by listing their folders; none is opened."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from retinanet_fast.engine.data.split import Images, Split
from retinanet_fast.engine.errors import InputError, Problems

LOOKED_FOR = 20  # images that decide which folder it is


def find_files(split: Split, folders: tuple[Path, ...], problems: Problems) -> Split:
    """The split of the images whose files are there, in the folder that holds most of the first ones; the others are
    reported.

    Raises:
        InputError: a file is missing, and ``problems`` does not skip it; or all are.
    """
    images = split.images.at(image_folder(split.images, folders))
    here = _present(images)
    for index in np.flatnonzero(~here).tolist():
        image = images[index]
        problems.report(f"{image.path}: no such image (image id {image.id})")
    found = replace(split, images=images)
    if not here.any():
        raise InputError(f"{split.annotations}: no usable image: the data set is empty")
    return found if here.all() else found.of_images(here)


def image_folder(images: Images, folders: Sequence[Path]) -> Path:
    """The folder that holds most of the first images (one missing file must not decide)."""
    present = [folder for folder in folders if folder.is_dir()] or list(folders)
    return max(present, key=lambda folder: count_present(images.at(folder)))


def count_present(images: Images) -> int:
    """How many of the first images have their files."""
    return sum(os.path.isfile(images.folder / name) for name in images.names[:LOOKED_FOR])


def _present(images: Images) -> np.ndarray:
    """``[N]`` bool: which images' files are there. A listing of a folder costs less than a look at each file."""
    listed: dict[str, frozenset[str]] = {}
    here = np.ones(len(images), dtype=bool)
    for index, name in enumerate(images.names):
        parent, _, own = name.rpartition("/")
        if parent not in listed:
            listed[parent] = names_in(images.folder / parent)
        # Not listed under this very name, it may still be found, where the system ignores case, for example.
        if own not in listed[parent] and not os.path.isfile(images.folder / name):
            here[index] = False
    return here


def names_in(folder: Path) -> frozenset[str]:
    """What a folder holds; nothing where it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except OSError:
        return frozenset()


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """How the names of files that Pillow can open end, in lower case."""
    Image.init()
    return frozenset(suffix for suffix, kind in Image.EXTENSION.items() if kind in Image.OPEN)


def is_picture(name: str) -> bool:
    """Whether a file is an image, by its name."""
    return os.path.splitext(name)[1].lower() in picture_suffixes()
