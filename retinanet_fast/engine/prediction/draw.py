"""Boxes, class names and scores on pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from retinanet_fast.engine.files import write_atomically

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".bmp": "BMP"}


@dataclass
class Label:
    """A box to draw: xyxy pixels, a text, and a class index that picks the colour."""

    box: tuple[float, float, float, float]
    text: str
    index: int

    def reduced(self, scale: int) -> Label:
        """The same on a picture of one pixel for ``scale`` of this one's."""
        left, top, right, bottom = (value / scale for value in self.box)
        return Label((left, top, right, bottom), self.text, self.index)


def colour(index: int) -> tuple[int, int, int]:
    """A distinct colour for each class: hues a golden ratio apart."""
    hue = (0.58 + index * 0.61803398875) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.78, 0.98)
    return round(255 * red), round(255 * green), round(255 * blue)


def to_picture(image: Tensor) -> Image.Image:
    """A uint8 tensor [3, H, W] as a picture."""
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def draw_boxes(picture: Image.Image, labels: Sequence[Label], scale: float = 1.0) -> Image.Image:
    """A copy of a picture, enlarged by ``scale``, with the boxes and their texts on it.

    Later labels are drawn over earlier ones: give the highest score last.
    """
    size = (round(picture.width * scale), round(picture.height * scale))
    result = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(result)
    width = max(1, round(min(result.size) / 250))
    font = ImageFont.load_default(max(10, round(min(result.size) / 34)))
    for label in labels:
        box = [value * scale for value in label.box]
        pen.rectangle(box, outline=colour(label.index), width=width)
    for label in labels:
        if label.text:
            _draw_text(pen, label, scale, font, result.size)
    return result


def _draw_text(
    pen: ImageDraw.ImageDraw,
    label: Label,
    scale: float,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    """The text on a plate above the box, or inside it at the picture's upper edge."""
    left, top, right, bottom = pen.textbbox((0, 0), label.text, font=font)
    plate_width, plate_height = right - left + 6, bottom - top + 4
    x = min(max(0, label.box[0] * scale), max(0, size[0] - plate_width))
    y = label.box[1] * scale - plate_height
    y = y if y >= 0 else max(0, label.box[1] * scale)
    fill = colour(label.index)
    dark = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] < 140
    pen.rectangle((x, y, x + plate_width, y + plate_height), fill=fill)
    pen.text((x + 3 - left, y + 2 - top), label.text, fill="white" if dark else "black", font=font)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of the file's name."""
    kind = FORMATS[path.suffix.lower()]
    write_atomically(path, lambda file: picture.save(file, format=kind, quality=92))
