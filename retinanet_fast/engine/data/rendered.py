"""Renders the demo's data set: balls, boxes and stars of many sizes on textured backgrounds, in COCO's format."""

from __future__ import annotations

import colorsys
import io
import json
import math
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from retinanet_fast.engine.files import write_bytes, write_text
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.engine.threads import available_cores

# Ids with a gap, as COCO's have.
CATEGORIES = ({"id": 1, "name": "ball"}, {"id": 3, "name": "box"}, {"id": 7, "name": "star"})
# The hues of each category: red to magenta, green to blue, orange to yellow. Backgrounds have any hue, but paler.
HUES = ((0.85, 1.03), (0.35, 0.68), (0.07, 0.19))
# Objects are drawn larger and scaled down, for smooth edges.
OVERSAMPLE = 2
# An object is not placed where it would leave less than this fraction of another visible.
LEAST_VISIBLE = 0.6


@dataclass
class RenderOptions:
    """What to render.

    Attributes:
        sizes: the smallest and the largest extent of an object, as fractions of the image; small ones are more common.
        objects: how few and how many objects are tried per image; one that would hide another is not placed.
    """

    train: int = 480
    val: int = 100
    size: int = 128
    seed: int = 7
    sizes: tuple[float, float] = (0.12, 0.6)
    objects: tuple[int, int] = (2, 14)


def render_data_set(folder: Path, options: RenderOptions) -> None:
    """Write ``images/`` and ``annotations/instances_{train,val}.json`` into a folder.

    The same options give the same pictures, rendered by a process per core. Each image has a seed of its own, so that a
    longer set begins with the images of a shorter one.
    """
    with ProcessPoolExecutor(available_cores()) as pool:
        for split, count in (("train", options.train), ("val", options.val)):
            _render_split(folder, options, split, count, pool)


def _render_split(folder: Path, options: RenderOptions, split: str, count: int, pool: Executor) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    progress = Progress(f"render {split}", count)
    rendered = pool.map(partial(_render_jpeg, options, split), range(count), chunksize=8)
    for number, (content, objects) in enumerate(rendered, start=1):
        name = f"{split}/{number:06d}.jpg"
        write_bytes(folder / "images" / name, content)
        images.append({"id": number, "file_name": name, "width": options.size, "height": options.size})
        for entry in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": number, **entry})
        if progress.due():
            progress.draw(number)
    progress.close()
    document = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
    write_text(folder / "annotations" / f"instances_{split}.json", json.dumps(document))


def _render_jpeg(options: RenderOptions, split: str, index: int) -> tuple[bytes, list[dict[str, Any]]]:
    generator = np.random.default_rng([options.seed, split == "val", index])
    picture, objects = render_image(generator, options)
    content = io.BytesIO()
    picture.save(content, format="JPEG", quality=92)
    return content.getvalue(), objects


def render_image(
    generator: np.random.Generator, options: RenderOptions
) -> tuple[Image.Image, list[dict[str, Any]]]:
    """One picture, and its annotations without ids. A box spans the whole outline, parts that are covered too."""
    size = options.size * OVERSAMPLE
    picture = background(generator, size)
    visible: list[NDArray[np.bool_]] = []
    areas: list[int] = []
    objects = []
    for _ in range(generator.integers(options.objects[0], options.objects[1] + 1)):
        extent = size * options.sizes[0] * (options.sizes[1] / options.sizes[0]) ** generator.random()
        category = int(generator.integers(len(CATEGORIES)))
        mask = outline(generator, category, size, extent)
        shape = np.asarray(mask) > 127
        seen = [earlier & ~shape for earlier in visible]
        if any(np.count_nonzero(part) < LEAST_VISIBLE * area for part, area in zip(seen, areas)):
            continue
        visible = [*seen, shape]
        areas.append(int(np.count_nonzero(shape)))
        paint(generator, picture, mask, category)
        objects.append({**_box(mask), "category_id": CATEGORIES[category]["id"], "iscrowd": 0})
    small = picture.resize((options.size, options.size), Image.Resampling.LANCZOS)
    grain = generator.normal(0, generator.uniform(1, 6), (options.size, options.size, 1))
    pixels = np.clip(np.asarray(small, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels), objects


def background(generator: np.random.Generator, size: int) -> Image.Image:
    """Noise of several scales between two colours, sometimes with stripes, so that objects are not on a flat ground."""
    field = np.zeros((size, size))
    for octave in range(1, 6):
        cells = 2**octave + 1
        field += smooth_noise(generator, cells, size) / (1.6**octave)
    field = (field - field.min()) / (np.ptp(field) + 1e-9)
    if generator.random() < 0.4:
        angle, waves = generator.uniform(0, math.pi), generator.uniform(3, 14)
        y, x = np.mgrid[0:size, 0:size] / size
        stripes = 0.5 + 0.5 * np.sin(2 * math.pi * waves * (x * math.cos(angle) + y * math.sin(angle)))
        field = 0.65 * field + 0.35 * stripes
    first, second = (_colour(generator, (0.0, 1.0), (0.0, 0.5)) for _ in range(2))
    return Image.fromarray((first + (second - first) * field[..., None]).astype(np.uint8))


def _colour(
    generator: np.random.Generator, hues: tuple[float, float], saturations: tuple[float, float]
) -> NDArray[np.float64]:
    """RGB from 0 to 255, of a hue and a saturation in the given ranges and any brightness but black."""
    hue, saturation = generator.uniform(*hues) % 1.0, generator.uniform(*saturations)
    return 255 * np.array(colorsys.hsv_to_rgb(hue, saturation, generator.uniform(0.4, 1.0)))


def smooth_noise(generator: np.random.Generator, cells: int, size: int) -> NDArray[np.float64]:
    """Noise in [0, 1] that varies over ``size / cells`` pixels."""
    coarse = Image.fromarray(generator.random((cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float64)


def outline(generator: np.random.Generator, category: int, size: int, extent: float) -> Image.Image:
    """The object's mask, wholly inside the picture: an ellipse, a turned rectangle, or a star."""
    squeeze = generator.uniform(0.7, 1.0)
    turn = generator.uniform(0, 2 * math.pi)
    if category == 0:
        corners = _ring(64, 1.0, 1.0)
    elif category == 1:
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * 0.85
    else:
        corners = _ring(10, 1.0, generator.uniform(0.42, 0.55))
    corners = corners * (1.0, squeeze)
    rotation = np.array([(math.cos(turn), -math.sin(turn)), (math.sin(turn), math.cos(turn))])
    corners = corners @ rotation.T
    span = np.ptp(corners, axis=0)
    corners = (corners - corners.min(axis=0)) * (extent / span.max())
    room = size - 2 - span * (extent / span.max())
    corners = corners + 1 + generator.random(2) * room
    mask = Image.new("L", (size, size))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in corners.tolist()], fill=255)
    return mask


def _ring(count: int, outer: float, inner: float) -> NDArray[np.float64]:
    """Points on a circle, every second one at the inner radius."""
    angles = np.arange(count) * 2 * math.pi / count
    radii = np.where(np.arange(count) % 2 == 0, outer, inner)
    return np.stack((radii * np.cos(angles), radii * np.sin(angles)), axis=1)


def paint(generator: np.random.Generator, picture: Image.Image, mask: Image.Image, category: int) -> None:
    """Paint an object: its shadow, a colour lit from the upper left, a texture, and dark edges."""
    left, top, right, bottom = mask.getbbox() or (0, 0, 1, 1)
    extent = max(right - left, bottom - top)
    margin = round(extent * 0.25) + 2
    frame = (left - margin, top - margin, right + margin, bottom + margin)
    shape, ground = mask.crop(frame), picture.crop(frame)
    shadow = ImageChops.offset(shape, round(extent * 0.05), round(extent * 0.08))
    shadow = shadow.filter(ImageFilter.GaussianBlur(extent * 0.06)).point(lambda value: round(value * 0.5))
    ground.paste((0, 0, 0), mask=shadow)

    width, height = shape.size
    y, x = np.mgrid[0:height, 0:width] - margin
    across, down = x / (right - left), y / (bottom - top)
    ball, flat = 1.35 - 1.1 * np.hypot(across - 0.35, down - 0.3), 1.2 - 0.3 * across - 0.3 * down
    light = ball if category == 0 else flat
    texture = smooth_noise(generator, int(generator.integers(4, 12)), max(width, height))
    light = light + 0.35 * (texture[:height, :width] - 0.5)
    if category == 1:  # a ribbon along the box's middle
        light = np.where(np.abs(across - 0.5) < 0.09, light * 0.55, light)
    pixels = np.clip(light[..., None] * _colour(generator, HUES[category], (0.55, 1.0)), 0, 255).astype(
        np.uint8
    )
    surface = Image.fromarray(pixels)
    surface.paste((15, 15, 20), mask=ImageChops.subtract(shape, shape.filter(ImageFilter.MinFilter(3))))
    ground.paste(surface, mask=shape)
    picture.paste(ground, frame[:2])


def _box(mask: Image.Image) -> dict[str, Any]:
    """COCO's box of a mask, in the pixels of the final picture."""
    left, top, right, bottom = (value / OVERSAMPLE for value in mask.getbbox() or (0, 0, 1, 1))
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}
