"""Reads Pascal VOC (Everingham et al., 2010): an XML file for each picture, which lists its objects.

Pixels are counted from 1, and a box includes its last one: ``xmin = 1, xmax = 10`` is ``x = 0, width = 10``. A
difficult object is neither right nor wrong to find, as in VOC's own evaluation: it becomes a crowd. Categories are the
names in ``Annotations``, of all splits, in alphabetical order, with ids from 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from retinanet_fast.engine.data.image_files import is_picture, names_in
from retinanet_fast.engine.data.sources.draft import Draft, number, pixels, read_lines
from retinanet_fast.engine.data.split import Category, Location, Split
from retinanet_fast.engine.errors import Problems, one_line

LAYOUT = "ImageSets/Main/{split}.txt with Annotations/*.xml and JPEGImages/"
SIDES = ("xmin", "ymin", "xmax", "ymax")


class Picture(NamedTuple):
    """What an XML file says, as text: the sides of the picture, and its objects as (name, corners, difficult)."""

    sides: list[str | None]
    objects: list[tuple[str, list[str | None], bool]]


def locate(data: Path, split: str) -> Location | None:
    """The list of a split's pictures, and the folder that holds them."""
    listed = data / "ImageSets" / "Main" / f"{split}.txt"
    return Location(listed, (data / "JPEGImages",), "voc") if listed.is_file() else None


def read_split(location: Location, problems: Problems) -> Split:
    """See ``sources.read_split``."""
    listed, folder = location.annotations, location.image_folders[0]
    annotations = listed.parents[2] / "Annotations"
    stems = read_lines(listed)
    pictures, names = _read_folder(annotations, frozenset(stems))
    id_of = {name: number for number, name in enumerate(names, 1)}
    files = {Path(name).stem: name for name in sorted(names_in(folder)) if is_picture(name)}
    draft = Draft(listed, folder, problems)
    seen: set[str] = set()
    for image_id, stem in enumerate(stems, 1):
        path = annotations / f"{stem}.xml"
        picture = pictures.get(stem) or f"{path}: no such annotation (listed in {listed})"
        if stem in seen:
            problems.report(f"{listed}: {stem!r:.80} is listed twice")
        elif stem not in files:
            problems.report(f"{folder / stem}: no such image, of any kind (listed in {listed})")
        elif isinstance(picture, str):
            problems.report(picture)
        else:
            _add(draft, path, picture, image_id, files[stem], id_of)
        seen.add(stem)
    return draft.split([Category(number, name) for name, number in id_of.items()])


def _add(draft: Draft, path: Path, picture: Picture, image_id: int, name: str, id_of: dict[str, int]) -> None:
    width, height = map(pixels, picture.sides)
    if width is None or height is None:
        found = " and ".join(f"{side!r:.80}" for side in picture.sides)
        draft.problems.report(f"{path}: expected a size/width and a size/height in pixels, got {found}")
        return
    draft.add_image(image_id, name, width, height)
    for index, (category, corners, difficult) in enumerate(picture.objects):
        where = f"{path}: object[{index}] ({category:.80})"
        xmin, ymin, xmax, ymax = map(number, corners)
        if not category:
            draft.problems.report(f"{path}: object[{index}]: expected a name")
        elif xmin is None or ymin is None or xmax is None or ymax is None:
            draft.problems.report(f"{where}: expected a bndbox with the numbers {', '.join(SIDES)}")
        else:
            box = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
            draft.add_box(where, box, id_of[category], difficult)


def _read_folder(folder: Path, wanted: frozenset[str]) -> tuple[dict[str, Picture | str], list[str]]:
    """The wanted files of a folder, or what is wrong with them; and the names of objects in all its files."""
    pictures: dict[str, Picture | str] = {}
    names: set[str] = set()
    for file in sorted(names_in(folder)):
        stem, suffix = os.path.splitext(file)
        if suffix == ".xml":
            picture = _parse(folder / file)
            if isinstance(picture, Picture):
                names.update(category for category, _, _ in picture.objects)
            if stem in wanted:
                pictures[stem] = picture
    return pictures, sorted(names - {""})


def _parse(path: Path) -> Picture | str:
    """What a file says, or what is wrong with it."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    except (
        ElementTree.ParseError,
        ValueError,
        LookupError,
    ) as error:  # the last two: an encoding that is unknown
        return f"{path}: not XML: {one_line(error)}"
    sides = [root.findtext(f"size/{side}") for side in ("width", "height")]
    return Picture(sides, [_object(item) for item in root.findall("object")])


def _object(item: ElementTree.Element) -> tuple[str, list[str | None], bool]:
    corners = [item.findtext(f"bndbox/{side}") for side in SIDES]
    return (item.findtext("name") or "").strip(), corners, (item.findtext("difficult") or "").strip() == "1"
