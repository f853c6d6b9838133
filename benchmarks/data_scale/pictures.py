"""Pictures that cost as much to decode as photographs: noise of many scales, as JPEG of some 4 bits a pixel."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retinanet_fast.engine.data.rendered import smooth_noise

QUALITY = 90
GRAIN = 13.0  # standard deviation: 640x480 pixels are then 137 KB and 12 ns a pixel (photos: 154 KB, 11 ns)


def picture(generator: np.random.Generator, width: int, height: int) -> Image.Image:
    """A picture of soft shapes in colour, with grain."""
    side = max(width, height)
    planes = [
        sum(smooth_noise(generator, 2**octave + 1, side) / 1.5**octave for octave in range(1, 7))
        for _ in range(3)
    ]
    field = np.stack([np.asarray(plane)[:height, :width] for plane in planes], axis=2)
    field = 255 * (field - field.min()) / (np.ptp(field) + 1e-9)
    field = field + generator.normal(0, GRAIN, (height, width, 1))
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = QUALITY) -> bytes:
    content = io.BytesIO()
    image.save(content, "jpeg", quality=quality)
    return content.getvalue()


def write_pictures(
    folder: Path,
    names: Sequence[str],
    sizes: NDArray[np.int64],
    each: int,
    generator: np.random.Generator,
    distinct: bool = False,
) -> int:
    """Write a file for each name; returns the number of different ones.

    Args:
        sizes: ``[N, 2]``, of each file.
        each: different pictures of a size; the other files of the size are hard links to them.
        distinct: every file has bytes of its own (the picture is one of ``each``, with a comment that differs): as
            many blocks on the disk, and in the page cache, as a real data set has.
    """
    made: dict[tuple[int, int, int], tuple[Path, bytes]] = {}
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    for number, (name, (width, height)) in enumerate(zip(names, sizes.tolist(), strict=True)):
        path = folder / name
        key = (width, height, number % each)
        if key not in made:
            made[key] = path, jpeg(picture(generator, width, height))
            path.write_bytes(made[key][1])
        elif distinct:
            path.write_bytes(_commented(made[key][1], name))
        else:
            _link(made, key, path)
    return len(names) if distinct else len(made)


def _link(
    made: dict[tuple[int, int, int], tuple[Path, bytes]], key: tuple[int, int, int], path: Path
) -> None:
    source, content = made[key]
    try:
        os.link(source, path)
    except OSError:  # a file has as many links as the file system allows (ext4: 65,000)
        path.write_bytes(content)
        made[key] = path, content


def _commented(content: bytes, text: str) -> bytes:
    """A JPEG with a comment after its first marker."""
    comment = text.encode()
    return content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]
