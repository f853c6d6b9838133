"""Finds what a data set in YOLO's text folders consists of: the classes' names, and each split's pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retinanet_fast.engine.data.image_files import is_picture
from retinanet_fast.engine.data.sources.draft import read_lines
from retinanet_fast.engine.errors import InputError, one_line

YAMLS = ("data.yaml", "dataset.yaml", "data.yml", "dataset.yml")
TEXTS = ("classes.txt", "labels/classes.txt", "obj.names")
# Where the pictures of a split are, and the labels that show that it is a data set.
PLACES = (("images/{split}", "labels/{split}"), ("{split}/images", "{split}/labels"))
OTHER_NAMES = {"val": ("val", "valid", "validation")}  # Roboflow writes valid/


@dataclass
class Description:
    """The file that names the classes: a ``data.yaml``, or a text file with a name in each line."""

    path: Path
    root: Path  # the data set's folder
    content: dict[str, Any]  # of the yaml

    @classmethod
    def read(cls, path: Path) -> Description:
        """Read the file.

        Raises:
            InputError: it cannot be read, or is no such file.
        """
        if path.suffix not in (".yaml", ".yml"):
            return cls(path, path.parent, {"names": read_lines(path)})
        content = _load_yaml(path)
        if not isinstance(content, dict):
            raise InputError(
                f"{path}: expected names and folders of a data set, got a {type(content).__name__}"
            )
        return cls(path, path.parent, content)

    @property
    def keypoints(self) -> bool:
        """Whether lines go on after the box, with key points."""
        return self.content.get("kpt_shape") is not None

    def names(self) -> list[str]:
        """The classes' names, by number.

        Raises:
            InputError: there are none, or some numbers have none.
        """
        names = self.content.get("names")
        if isinstance(names, dict):
            if set(names) != set(range(len(names))):
                raise InputError(
                    f"{self.path}: expected names of classes 0 to {len(names) - 1}, without gaps"
                )
            names = [names[number] for number in range(len(names))]
        if not isinstance(names, list) or not names:
            raise InputError(
                f"{self.path}: expected a list of names of the classes, got a {type(names).__name__}"
            )
        for index, name in enumerate(names):
            if isinstance(name, bool) or not isinstance(name, (str, int, float)):
                raise InputError(f"{self.path}: names[{index}]: expected a text, got a {type(name).__name__}")
        return [str(name) for name in names]

    def places(self, split: str) -> list[Path]:
        """The folders of a split's pictures, or lists of them; none where there is no such split.

        Raises:
            InputError: the file names a folder that does not exist.
        """
        others = OTHER_NAMES.get(split, (split,))
        if self.path.suffix not in (".yaml", ".yml"):
            return _usual_places(self.root, others)
        entry = next((self.content[name] for name in others if self.content.get(name)), None)
        entries = entry if isinstance(entry, list) else [] if entry is None else [entry]
        return [self._resolve(split, entry) for entry in entries]

    def _resolve(self, split: str, entry: Any) -> Path:
        if not isinstance(entry, str):
            raise InputError(
                f"{self.path}: {split}: expected a folder or a list, got a {type(entry).__name__}"
            )
        named, here = self.content.get("path"), self.root
        tried = [here / named / entry] if isinstance(named, str) else []
        # The data set may have been moved, and Roboflow writes ../train/images for train/images.
        tried += [here / entry, here / entry.removeprefix("../")]
        for path in tried:
            if _exists(path):
                return path
        raise InputError(f"{self.path}: {split}: {entry!r:.200} does not exist; looked for {tried[0]}")


def describe(data: Path) -> Description | None:
    """The description of a data set in a folder; None where it is none in this form.

    Raises:
        InputError: its file cannot be read, or the names of its classes are missing.
    """
    for name in YAMLS:
        if (data / name).is_file():
            return Description.read(data / name)
    for path in sorted(data.glob("*.yaml")):
        found = _load_yaml(path)
        if isinstance(found, dict) and "names" in found:
            return Description(path, data, found)
    if not any(_usual_places(data, OTHER_NAMES.get(split, (split,))) for split in ("train", "val", "test")):
        return None
    for name in TEXTS:
        if (data / name).is_file():
            return Description(data / name, data, {})
    raise InputError(
        f"{data}: labels/ without names of the classes: expected data.yaml, or classes.txt with a name per line"
    )


def _usual_places(data: Path, names: Sequence[str]) -> list[Path]:
    """The folder of a split's pictures that has labels beside it."""
    for name in names:
        for pictures, labels in PLACES:
            if (data / labels.format(split=name)).is_dir() and (data / pictures.format(split=name)).is_dir():
                return [data / pictures.format(split=name)]
    return []


def folder_of(places: Sequence[Path]) -> Path:
    """The folder that holds all of a split's pictures."""
    folders = [place if place.is_dir() else place.parent for place in places]
    return (
        Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))
        if len(folders) > 1
        else folders[0]
    )


def pictures_of(places: Sequence[Path]) -> list[Path]:
    """The pictures in folders and their subfolders, by name, and those of lists, in their order.

    Raises:
        InputError: there are none, or a list cannot be read.
    """
    pictures: list[Path] = []
    for place in places:
        if place.is_dir():
            found = [
                Path(root, name) for root, _, names in os.walk(place) for name in names if is_picture(name)
            ]
            pictures += sorted(found)
        else:
            pictures += [place.parent / line.removeprefix("./") for line in read_lines(place)]
    if not pictures:
        raise InputError(f"{', '.join(map(str, places))}: no pictures: the data set is empty")
    return pictures


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or has a null byte
        return False


def _load_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except (
        Exception
    ) as error:  # besides its own, PyYAML raises ValueError, TypeError and others on odd values
        raise InputError(f"{path}: not YAML: {one_line(error)}") from None
