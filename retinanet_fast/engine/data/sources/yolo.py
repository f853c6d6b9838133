"""Reads YOLO's text folders: ``images/NAME.jpg`` and ``labels/NAME.txt``, a line for each object.

A line is the number of its class, from 0, and the box's centre and size as parts of the picture's width and height
(``class cx cy w h``), or the corners of a polygon (``class x1 y1 x2 y2 ...``), of which the box is taken. A picture
without a text file has no objects. Category ids are the numbers of the classes + 1. Sizes are those of the pictures as
EXIF turns them, which is how programs for YOLO show and read them.
"""

from __future__ import annotations

import os
from pathlib import Path

from retinanet_fast.engine.data.image_facts import image_facts
from retinanet_fast.engine.data.sources.draft import Draft, number, read_lines
from retinanet_fast.engine.data.sources.yolo_files import Description, describe, folder_of, pictures_of
from retinanet_fast.engine.data.split import Category, Location, Split
from retinanet_fast.engine.errors import InputError, Problems

LAYOUT = "data.yaml with names and a {split} folder or list, or classes.txt with images/{split}/ and labels/{split}/"


def locate(data: Path, split: str) -> Location | None:
    """The file of the classes' names, and the folders of pictures, or lists of them, that it has for the split."""
    description = describe(data)
    places = description.places(split) if description is not None else []
    return Location(description.path, tuple(places), "yolo") if description is not None and places else None


def read_split(location: Location, problems: Problems) -> Split:
    """See ``sources.read_split``. Each picture's header is read once, for its size."""
    description = Description.read(location.annotations)
    names = description.names()
    folder = folder_of(location.image_folders)
    pictures = pictures_of(location.image_folders)
    draft = Draft(location.annotations, folder, problems)
    found = dict(image_facts(pictures, "read sizes"))
    seen: set[Path] = set()
    for index, path in enumerate(pictures):
        facts = found[index]
        if facts.fault is not None or path in seen:
            problems.report(f"{path}: {facts.fault or 'listed twice'}")
            continue
        seen.add(path)
        draft.add_image(index + 1, os.path.relpath(path, folder), *facts.upright)
        _read_labels(draft, _labels_of(path), len(names), facts.upright, description.keypoints)
    return draft.split([Category(number, name) for number, name in enumerate(names, 1)])


def _labels_of(picture: Path) -> Path:
    """``.../images/a/b.jpg`` has its text in ``.../labels/a/b.txt``; a picture that is in no ``images``, beside it."""
    parts = list(picture.parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(draft: Draft, path: Path, classes: int, size: tuple[int, int], keypoints: bool) -> None:
    try:
        lines = read_lines(path) if path.is_file() else []
    except InputError as error:
        draft.problems.report(str(error))
        return
    for line_number, line in enumerate(lines, 1):
        where = f"{path}: line {line_number}"
        values = [number(word) for word in line.split()]
        numbers = [value for value in values if value is not None]
        row = numbers[1:5] if keypoints else numbers[1:]
        if len(numbers) < len(values) or len(row) < 4 or (len(row) > 4 and len(row) % 2):
            draft.problems.report(
                f"{where}: expected a class and cx, cy, w, h, or a class and the corners of a polygon, got {line!r:.80}"
            )
        elif not numbers[0].is_integer() or not 0 <= numbers[0] < classes:
            draft.problems.report(
                f"{where}: expected a class from 0 to {classes - 1}, got {line.split()[0]:.80}"
            )
        elif max(map(abs, row)) > 2:
            draft.problems.report(f"{where}: expected parts of the picture, from 0 to 1, got {line!r:.80}")
        else:
            draft.add_box(where, _box(row, size), int(numbers[0]) + 1)


def _box(row: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """``[x, y, width, height]`` in pixels."""
    width, height = size
    if len(row) == 4:
        cx, cy, w, h = row
        return (cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height
    xs, ys = row[0::2], row[1::2]
    return min(xs) * width, min(ys) * height, (max(xs) - min(xs)) * width, (max(ys) - min(ys)) * height
