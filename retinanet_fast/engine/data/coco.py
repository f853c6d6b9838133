"""Reads a split of a COCO-format data set: a json of images, boxes and categories, and a folder of images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from PIL import Image

from retinanet_fast.engine.errors import InputError, Problems

# COCO's own boxes overshoot their image by rounding, by less than this many pixels; they are clipped.
OVERSHOOT = 1.0


class Category(NamedTuple):
    """A category as the json has it; ids may have gaps."""

    id: int
    name: str


class ImageEntry(NamedTuple):
    """An image of the json, with the file that holds it."""

    id: int
    file_name: str
    path: Path
    width: int
    height: int


class Box(NamedTuple):
    """An annotation: its upper left corner and its size in pixels, clipped to the image."""

    x: float
    y: float
    width: float
    height: float
    category_id: int
    area: float
    crowd: bool


class Location(NamedTuple):
    """Where a split is: its json, and the folders in which its images may be."""

    annotations: Path
    image_folders: tuple[Path, ...]


@dataclass
class Split:
    """One split, checked: every box belongs to an image and a category and lies inside its image."""

    annotations: Path
    categories: list[Category]
    images: list[ImageEntry]
    boxes: dict[int, list[Box]] = field(default_factory=dict)

    def count_boxes(self) -> int:
        """Number of boxes, crowd boxes included."""
        return sum(len(boxes) for boxes in self.boxes.values())


def locate(data: Path, split: str) -> Location | None:
    """Find a split in a data set's folder: ``annotations/instances_{split}.json``, or COCO's own
    ``annotations/instances_{split}2017.json``.

    Its images may be in ``{split}/``, ``images/{split}/`` or ``images/`` (with the year if the json has it), or in the
    folder itself.
    Returns None where the folder has no such split.

    Raises:
        InputError: ``data`` is not a folder.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder")
    for name in (split, f"{split}2017"):
        annotations = data / "annotations" / f"instances_{name}.json"
        if annotations.is_file():
            folders = (data / name, data / "images" / name, data / "images", data)
            return Location(annotations, folders)
    return None


def read_split(location: Location, problems: Problems) -> Split:
    """Read and check a split. Every image file must exist and have the size that the json states.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    split = read_annotations(location.annotations, problems)
    folder = _image_folder(split.images, location.image_folders)
    located = (image._replace(path=folder / image.file_name) for image in split.images)
    split.images = [image for image in located if _check_file(image, problems)]
    if not split.images:
        raise InputError(f"{split.annotations}: no usable image: the data set is empty")
    return split


def read_annotations(path: Path, problems: Problems) -> Split:
    """Read and check the json alone, not the image files.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    document = load_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a json object, got a {type(document).__name__}")
    categories = list(_read_categories(path, document, problems))
    images = list(_read_images(path, document, problems))
    if not categories:
        raise InputError(f"{path}: no categories: the data set is empty")
    if not images:
        raise InputError(f"{path}: no images: the data set is empty")
    split = Split(path, categories, images)
    _read_boxes(split, document, problems)
    return split


def load_json(path: Path) -> Any:
    """The content of a json file.

    Raises:
        InputError: the file cannot be read or is not json.
    """
    try:
        return json.loads(
            path.read_text(encoding="utf-8-sig")
        )  # Windows programs begin with a byte-order mark
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: not json: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: not json of a data set: nested too deeply") from None


def _entries(path: Path, document: dict[str, Any], key: str) -> list[Any]:
    entries = document.get(key)
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list {key!r}, got {type(entries).__name__}")
    return entries


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a json's value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a json's value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and is_integer(entry.get("id"))


def _read_categories(path: Path, document: dict[str, Any], problems: Problems) -> Iterator[Category]:
    seen: set[int] = set()
    for index, entry in enumerate(_entries(path, document, "categories")):
        where = f"{path}: categories[{index}]"
        if not _has_id(entry):
            problems.report(f"{where}: expected an object with an integer id")
        elif not isinstance(entry.get("name"), str):
            problems.report(f"{where} (id {entry['id']}): expected a name")
        elif entry["id"] in seen:
            problems.report(f"{where}: id {entry['id']} is used twice")
        else:
            seen.add(entry["id"])
            yield Category(entry["id"], entry["name"])


def _read_images(path: Path, document: dict[str, Any], problems: Problems) -> Iterator[ImageEntry]:
    seen: set[int] = set()
    for index, entry in enumerate(_entries(path, document, "images")):
        where = f"{path}: images[{index}]"
        if not _has_id(entry):
            problems.report(f"{where}: expected an object with an integer id")
            continue
        where = f"{where} (id {entry['id']})"
        name, width, height = entry.get("file_name"), _pixels(entry, "width"), _pixels(entry, "height")
        if not isinstance(name, str) or not name:
            problems.report(f"{where}: expected a file_name")
        elif width is None or height is None:
            found = f"{entry.get('width')!r} and {entry.get('height')!r}"
            problems.report(f"{where}: expected a width and a height in pixels, got {found}")
        elif entry["id"] in seen:
            problems.report(f"{where}: the id is used twice")
        else:
            seen.add(entry["id"])
            yield ImageEntry(entry["id"], name, Path(name), width, height)


def _pixels(entry: dict[str, Any], key: str) -> int | None:
    """A number of pixels, which some programs write as 96.0; None where it is not one."""
    value = entry.get(key)
    return int(value) if is_number(value) and value == int(value) and value > 0 else None


def _read_boxes(split: Split, document: dict[str, Any], problems: Problems) -> None:
    images: dict[Any, ImageEntry] = {image.id: image for image in split.images}
    # Boxes of an image that was reported go with it, unreported.
    reported = {entry["id"] for entry in document["images"] if _has_id(entry)} - images.keys()
    category_ids = {category.id for category in split.categories}
    for index, entry in enumerate(_entries(split.annotations, document, "annotations")):
        where = f"{split.annotations}: annotations[{index}]"
        if not isinstance(entry, dict):
            problems.report(f"{where}: expected an object, got {entry!r}")
            continue
        where = f"{where} (id {entry.get('id')})"
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        image = images.get(image_id) if is_integer(image_id) else None
        if is_integer(image_id) and image_id in reported:
            continue
        if image is None:
            problems.report(f"{where}: image_id {image_id} is not among the images")
        elif not is_integer(category_id) or category_id not in category_ids:
            problems.report(f"{where}: category_id {category_id} is not among the categories")
        elif (fault := _box_fault(entry.get("bbox"), image) or _value_fault(entry)) is not None:
            problems.report(f"{where}: {fault}")
        else:
            split.boxes.setdefault(image.id, []).append(_box(entry, image))


def _box_fault(bbox: Any, image: ImageEntry) -> str | None:
    """What is wrong with a box ``[x, y, width, height]`` of an image, if anything is."""
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        return f"expected bbox [x, y, width, height], got {bbox!r}"
    x, y, width, height = bbox
    if width <= 0 or height <= 0:
        return f"bbox {bbox} has no area"
    right, bottom = image.width + OVERSHOOT, image.height + OVERSHOOT
    inside = x >= -OVERSHOOT and y >= -OVERSHOOT and x + width <= right and y + height <= bottom
    if not inside or x >= image.width or y >= image.height or x + width <= 0 or y + height <= 0:
        return f"bbox {bbox} is outside its image of {image.width}x{image.height} pixels"
    return None


def _value_fault(entry: dict[str, Any]) -> str | None:
    """What is wrong with an annotation's area or crowd flag, if anything is; both may be absent."""
    area, crowd = entry.get("area"), entry.get("iscrowd", 0)
    if area is not None and not (is_number(area) and area >= 0):
        return f"expected an area in pixels, got {area!r}"
    if not isinstance(crowd, (bool, int, float)) or crowd not in (0, 1):
        return f"expected iscrowd 0 or 1, got {crowd!r}"
    return None


def _box(entry: dict[str, Any], image: ImageEntry) -> Box:
    x, y, width, height = (float(value) for value in entry["bbox"])
    area = entry.get("area")
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, float(image.width)), min(y + height, float(image.height))
    if (left, top, right, bottom) != (x, y, x + width, y + height):
        x, y, width, height = left, top, right - left, bottom - top
    area = width * height if area is None else float(area)
    return Box(x, y, width, height, entry["category_id"], area, bool(entry.get("iscrowd", 0)))


def _image_folder(images: list[ImageEntry], folders: tuple[Path, ...]) -> Path:
    """The folder that holds most of the first images (one missing file must not decide)."""
    present = [folder for folder in folders if folder.is_dir()] or list(folders)
    return max(present, key=lambda folder: sum((folder / image.file_name).is_file() for image in images[:20]))


def _check_file(image: ImageEntry, problems: Problems) -> bool:
    """Whether the file exists and begins as an image of the stated size; its pixels are decoded when they are used."""
    fault = None
    try:
        with Image.open(image.path) as picture:
            if picture.size != (image.width, image.height):
                found = f"{picture.size[0]}x{picture.size[1]}"
                fault = f"the image is {found} pixels, its entry says {image.width}x{image.height}"
    except FileNotFoundError:
        fault = "no such image"
    except Exception as error:  # PIL raises many kinds on a file that is not an image
        fault = f"not a readable image: {one_line(error)}"
    if fault is not None:
        problems.report(f"{image.path}: {fault} (image id {image.id})")
    return fault is None


def one_line(error: BaseException) -> str:
    """An exception's first line, or its type where it has none."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
