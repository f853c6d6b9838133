"""Reads a split of a COCO-format data set: a json of images, boxes and categories, and a folder of images."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from retinanet_fast.engine.data.check_files import check_files, image_folder
from retinanet_fast.engine.data.split import Box, Category, ImageEntry, Location, Split
from retinanet_fast.engine.errors import InputError, Problems

# COCO's own boxes overshoot their image by rounding, by less than this many pixels; they are clipped.
OVERSHOOT = 1.0


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


def read_split(
    location: Location, problems: Problems, record: Path | None = None, write_record: bool = True
) -> Split:
    """Read and check a split. Every image file must exist and have the size that the json states.

    Args:
        record: a file in which the check of the image files is remembered: while the data set has the same
            ``fingerprint``, they are not opened again, and the same faults are reported.
        write_record: whether to write the file where it holds no such check; of several processes one should.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    split = read_annotations(location.annotations, problems)
    folder = image_folder(split.images, location.image_folders)
    split.images = [image._replace(path=folder / image.file_name) for image in split.images]
    split.images = check_files(split, problems, record, write_record)
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
