"""Decodes image files: which way up, and how finely."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

ORIENTATION = 0x0112  # EXIF's tag
QUARTER_TURNS = range(5, 9)  # its values that exchange width and height

Size = tuple[int, int]  # (width, height)


class Decoded(NamedTuple):
    """An image, and what its pixels stand for."""

    image: Tensor  # [3, h, w] uint8, RGB
    size: Size  # (W, H) of the whole image, which way up it is read
    scale: int = 1  # a pixel stands for scale x scale of the whole image: h = ceil(H / scale), w = ceil(W / scale)


class WrongSize(ValueError):
    """An image has another size than its entry says."""


def decode(
    path: Path, stated: Size | None = None, orientation: str = "auto", least: Size | None = None
) -> Decoded:
    """Decode an image file.

    Cameras store a picture as the sensor lies, and note in EXIF how to turn it; most programs that annotate show it
    turned, some do not.

    Args:
        stated: the size that a data set says it has.
        orientation: "stored" reads the pixels as they are stored, "upright" turns them as EXIF says; "auto" reads as
            stored what has the stated size so, and turns what has it turned. Where no size is stated, "auto" turns.
        least: (width, height) that are enough. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is not less
            in either direction: its decoder then computes the means of squares of pixels, at a part of the cost.

    Raises:
        WrongSize: the image does not have the stated size.
        OSError, SyntaxError, ValueError: missing, truncated or not an image.
    """
    with Image.open(path) as picture:
        stored = picture.size
        turn = _turn(picture, stated, orientation)
        size = (stored[1], stored[0]) if turn in QUARTER_TURNS else stored
        if stated is not None and size != stated:
            raise WrongSize(
                f"the image is {size[0]}x{size[1]} pixels, its entry says {stated[0]}x{stated[1]}"
            )
        scale = 1
        if least is not None and picture.format == "JPEG":
            scale = _reduce(picture, (least[1], least[0]) if turn in QUARTER_TURNS else least)
        rgb = (ImageOps.exif_transpose(picture) if turn != 1 else picture).convert("RGB")
    return Decoded(torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous(), size, scale)


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
