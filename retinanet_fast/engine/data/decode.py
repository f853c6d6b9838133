"""Decodes image files: which way up, and how finely."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.nn.batch_sizes import resized_size

ORIENTATION = 0x0112  # EXIF's tag
QUARTER_TURNS = range(5, 9)  # its values that exchange width and height

# A picture of so many pixels takes up to 1.2 GB while it is decoded; beyond it, Pillow takes one for an attack.
MOST_PIXELS = 89_478_485
# Of what can be read, Pillow would warn for each picture, in several lines; of what cannot, it is told in one.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

Size = tuple[int, int]  # (width, height)


class Decoded(NamedTuple):
    """An image, and what its pixels stand for."""

    image: Tensor  # [3, h, w] uint8, RGB; in memory as [h, w, 3]: what is packed for a GPU is so too
    size: Size  # (W, H) of the whole image, which way up it is read
    # A pixel stands for scale x scale of the whole image: h = ceil(H / scale), w = ceil(W / scale).
    scale: int = 1


class Decoding(NamedTuple):
    """How a model's images are decoded: a recipe's ``orientation`` and ``jpeg_draft``, and the sizes that it needs."""

    orientation: str = "auto"
    min_size: int = 0  # 0: decoded whole
    max_size: int = 0
    enlarged: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe, training: bool = False) -> Decoding:
        """A recipe's; for training, fine enough for the largest size that it draws."""
        if not recipe.jpeg_draft:
            return cls(recipe.orientation)
        if not training:
            return cls(recipe.orientation, recipe.min_size[-1], recipe.max_size)
        # What scale jitter cuts out of an image is resized to the whole size.
        enlarged = max([1.0, *recipe.scale_jitter])
        return cls(recipe.orientation, max(recipe.min_size), recipe.max_size, enlarged)

    def __call__(self, path: Path | IO[bytes], stated: Size | None = None) -> Decoded:
        """``decode`` a file so."""
        return decode(path, stated, self.orientation, self._least)

    def _least(self, size: Size) -> Size:
        if self.min_size == 0:
            return size
        height, width = resized_size(size[1], size[0], self.min_size, self.max_size)
        return math.ceil(width * self.enlarged), math.ceil(height * self.enlarged)


class WrongSize(ValueError):
    """An image has another size than its entry says."""


def decode(
    path: Path | IO[bytes],
    stated: Size | None = None,
    orientation: str = "auto",
    least: Callable[[Size], Size] = lambda size: size,
) -> Decoded:
    """Decode an image file.

    Cameras store a picture as the sensor lies, and note in EXIF how to turn it; most programs that annotate show it
    turned, some do not.

    Args:
        stated: the size that a data set says it has.
        orientation: "stored" reads the pixels as they are stored, "upright" turns them as EXIF says; "auto" reads as
            stored what has the stated size so, and turns what has it turned. Where no size is stated, "auto" turns.
        least: of an image's size, the (width, height) that are enough. A JPEG is decoded at 1/2, 1/4 or 1/8 of its
            size where that is not less in either direction, at a part of the cost: its decoder makes each pixel of as
            many.

    Raises:
        WrongSize: the image does not have the stated size.
        OSError, SyntaxError, ValueError: missing, truncated or not an image.
    """
    rgb, size, scale = _rgb(path, stated, orientation, least)
    return Decoded(torch.from_numpy(np.array(rgb)).permute(2, 0, 1), size, scale)


def _rgb(
    path: Path | IO[bytes], stated: Size | None, orientation: str, least: Callable[[Size], Size]
) -> tuple[Image.Image, Size, int]:
    """``decode`` to a picture of Pillow's; what it was made of is freed."""
    with Image.open(path) as picture:
        if picture.format != "JPEG":  # which can be decoded in part
            check_pixels(picture)
        stored = picture.size
        turn = _turn(picture, stated, orientation)
        size = (stored[1], stored[0]) if turn in QUARTER_TURNS else stored
        if stated is not None and size != stated:
            raise WrongSize(
                f"the image is {size[0]}x{size[1]} pixels, its entry says {stated[0]}x{stated[1]}"
            )
        scale = 1
        if picture.format == "JPEG":
            width, height = least(size)
            scale = _reduce(picture, (height, width) if turn in QUARTER_TURNS else (width, height))
            check_pixels(picture)
        picture.load()
        rgb = ImageOps.exif_transpose(picture) if turn != 1 else picture
    return rgb if rgb.mode == "RGB" else rgb.convert("RGB"), size, scale  # RGB would be copied


def check_pixels(picture: Image.Image) -> None:
    """Check that an image that is open, but not decoded, is not too large to be.

    Raises:
        ValueError: it is.
    """
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} pixels are more than {MOST_PIXELS}, the most that are decoded")


def _turn(picture: Image.Image, stated: Size | None, orientation: str) -> int:
    """How the picture is to be turned, as a value of EXIF's orientation: 1 leaves it."""
    if orientation == "stored" or (orientation == "auto" and picture.size == stated):
        return 1
    turn = picture.getexif().get(ORIENTATION, 1)
    if turn not in range(2, 9):
        return 1
    turned = (picture.size[1], picture.size[0]) if turn in QUARTER_TURNS else picture.size
    # Where neither way has the stated size, the stored one is named as the wrong one.
    return turn if orientation == "upright" or stated is None or turned == stated else 1


def _reduce(picture: Image.Image, least: Size) -> int:
    """Have a JPEG decoded at a part of its size that is at least ``least``; returns 1, 2, 4 or 8."""
    full = picture.size
    picture.draft(None, (max(1, least[0]), max(1, least[1])))
    # The decoder rounds up: 1/8 of 4001 pixels are 501.
    return next(part for part in (1, 2, 4, 8) if -(-full[0] // part) == picture.size[0])
