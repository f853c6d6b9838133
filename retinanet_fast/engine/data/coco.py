"""Reads a split of a COCO-format data set: a json of images, boxes and categories, and a folder of images."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from retinanet_fast.engine.data.box_rules import LONGEST_SIDE, box_fault, clip, inside
from retinanet_fast.engine.data.image_files import find_files
from retinanet_fast.engine.data.json_entries import Entries, decoder, plain
from retinanet_fast.engine.data.json_values import is_integer, is_number
from retinanet_fast.engine.data.split import Boxes, Category, Images, Location, Split
from retinanet_fast.engine.errors import InputError, Problems

LAYOUT = "annotations/instances_{split}.json, or COCO's own annotations/instances_{split}2017.json"
INT64 = range(-(2**63), 2**63)

_Id = Annotated[int, msgspec.Meta(ge=INT64[0], le=INT64[-1])]


class _Image(msgspec.Struct):
    id: _Id
    width: float
    height: float
    file_name: str = ""
    coco_url: str = ""  # what LVIS has in its place


class _Annotation(msgspec.Struct):
    image_id: _Id
    category_id: _Id
    bbox: tuple[float, float, float, float]
    area: float | None = None
    iscrowd: bool | int | float = 0


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
    """Read and check a split's json, and find its image files. No image is opened: that its size is another, or that
    it cannot be decoded, shows when it is loaded, or by ``retinanet-fast check-data``.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    return find_files(read_annotations(location.annotations, problems), location.image_folders, problems)


def read_annotations(path: Path, problems: Problems) -> Split:
    """Read and check the json alone, not the image files.

    Raises:
        InputError: an entry cannot be used, and ``problems`` does not skip it; it names file and entry.
    """
    entries = Entries(path, ("categories", "images", "annotations"))
    categories = list(_read_categories(path, entries["categories"], problems))
    images = _read_images(path, entries["images"], problems)
    if not categories:
        raise InputError(f"{path}: no categories: the data set is empty")
    if not images:
        raise InputError(f"{path}: no images: the data set is empty")
    return _read_boxes(path, entries, categories, images, problems)


def _read_categories(path: Path, entries: list[Any], problems: Problems) -> Iterator[Category]:
    seen: set[int] = set()
    for index, entry in enumerate(map(plain, entries)):
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


def _read_images(path: Path, entries: list[Any], problems: Problems) -> Images:
    decode = decoder(_Image)
    seen: set[int] = set()
    rows = []
    for index, entry in enumerate(entries):
        image = decode(entry)
        name = "" if image is None else image.file_name or "/".join(image.coco_url.split("/")[-2:])
        if image is None or not name or "\0" in name or image.id in seen or not _are_pixels(image):
            found = plain(entry)
            problems.report(f"{path}: images[{index}]{_image_fault(found, seen)}")
            continue
        seen.add(image.id)
        rows.append((image.id, name, int(image.width), int(image.height)))
    return Images.of(rows)


def _are_pixels(image: _Image) -> bool:
    """Whether a width and a height are numbers of pixels, which some programs write as 96.0."""
    return all(side.is_integer() and 0 < side <= LONGEST_SIDE for side in (image.width, image.height))


def _image_fault(entry: Any, seen: set[int]) -> str:
    if not _has_id(entry):
        return ": expected an object with an integer id"
    where = f" (id {entry['id']})"
    if entry["id"] in seen:
        return f"{where}: the id is used twice"
    name = entry.get("file_name") or entry.get("coco_url")
    if not isinstance(name, str) or not name or "\0" in name:
        return f"{where}: expected a file_name"
    return (
        f"{where}: expected a width and a height in pixels, got {_short(entry.get('width'))} and "
        f"{_short(entry.get('height'))}"
    )


def _read_boxes(
    path: Path, entries: Entries, categories: list[Category], images: Images, problems: Problems
) -> Split:
    decode = decoder(_Annotation)
    ids, category_ids, numbers = array("q"), array("q"), array("d")
    unread = (0, 0, (0.0, 0.0, 0.0, 0.0), None, 2)  # what is not an annotation: a crowd flag that is none
    for entry in entries["annotations"]:
        one = decode(entry)
        image_id, category_id, bbox, area, flag = (
            unread if one is None else (one.image_id, one.category_id, one.bbox, one.area, one.iscrowd)
        )
        ids.append(image_id)
        category_ids.append(category_id)
        numbers.extend(bbox)
        numbers.append(-1.0 if area is None else area if area >= 0 else -2.0)
        numbers.append(flag if -1 <= flag <= 2 else 2.0)
    owners = images.index_of(np.array(ids))
    table = np.array(numbers, dtype=np.float64).reshape(-1, 6)
    xywh, areas, crowd = table[:, :4], table[:, 4], table[:, 5]
    known = np.isin(np.array(category_ids), [category.id for category in categories])
    sizes = images.sizes[owners].astype(np.float64)
    good = (owners >= 0) & known & inside(xywh, sizes) & ((crowd == 0) | (crowd == 1))
    good &= np.isfinite(areas) & (areas != -2.0)
    if not good.all():
        _report(path, entries, np.flatnonzero(~good), categories, images, problems)
    clipped = clip(xywh[good], sizes[good])
    areas = np.where(areas[good] < 0, clipped[:, 2] * clipped[:, 3], areas[good])
    boxes = Boxes(clipped, np.array(category_ids)[good], areas, crowd[good] == 1)
    return Split.of(path, categories, images, boxes, owners[good])


def _report(
    path: Path,
    entries: Entries,
    bad: np.ndarray,
    categories: list[Category],
    images: Images,
    problems: Problems,
) -> None:
    """Report the annotations at some places. One of an image that was reported goes with it, unreported."""
    known = set(images.ids.tolist())
    reported = {entry["id"] for entry in map(plain, entries["images"]) if _has_id(entry)} - known
    sizes = dict(zip(images.ids.tolist(), images.sizes.tolist()))
    category_ids = {category.id for category in categories}
    for index in bad.tolist():
        entry = plain(entries["annotations"][index])
        where = f"{path}: annotations[{index}]"
        if not isinstance(entry, dict):
            problems.report(f"{where}: expected an object, got {_short(entry)}")
            continue
        where = f"{where} (id {_short(entry.get('id'))})"
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        if is_integer(image_id) and image_id in reported:
            continue
        if not is_integer(image_id) or image_id not in known:
            problems.report(f"{where}: image_id {_short(image_id)} is not among the images")
        elif not is_integer(category_id) or category_id not in category_ids:
            problems.report(f"{where}: category_id {_short(category_id)} is not among the categories")
        else:
            problems.report(f"{where}: {_box_fault(entry, sizes[image_id])}")


def _box_fault(entry: dict[str, Any], size: tuple[int, int]) -> str:
    """What is wrong with the box ``[x, y, width, height]``, the area or the crowd flag of an annotation."""
    bbox, area, crowd = entry.get("bbox"), entry.get("area"), entry.get("iscrowd", 0)
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
        return f"expected bbox [x, y, width, height], got {_short(bbox)}"
    if (fault := box_fault(bbox, size)) is not None:
        return fault
    if area is not None and not (is_number(area) and area >= 0):
        return f"expected an area in pixels, got {_short(area)}"
    return f"expected iscrowd 0 or 1, got {_short(crowd)}"


def _has_id(entry: Any) -> bool:
    return isinstance(entry, dict) and is_integer(entry.get("id")) and entry["id"] in INT64


def _short(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
