"""Writes a split as COCO's json, whatever form it was read from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from retinanet_fast.engine.data.split import ImageEntry, Split
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.files import write_atomically
from retinanet_fast.engine.reporting.progress import Progress


def annotations_path(out: Path, name: str) -> Path:
    """Where the json of a split goes.

    Raises:
        InputError: there is one already, which may hold more than boxes.
    """
    path = out / "annotations" / f"instances_{name}.json"
    if path.exists():
        raise InputError(f"{path}: exists already; expected an --out without this split")
    return path


def write_split(split: Split, name: str, out: Path, copy_images: bool) -> Path:
    """Write ``annotations/instances_{name}.json``, so that ``--data`` takes the folder; returns its path.

    Kept are categories, images and boxes with their areas and crowd flags; polygons and key points are not.

    Args:
        copy_images: copy the images to ``images/{name}/``. Else they stay where they lie, and ``file_name`` is their
            path from ``out``.

    Raises:
        InputError: the json exists, or two images would be copied to one name.
    """
    path = annotations_path(out, name)
    names = _copied(split, out / "images" / name) if copy_images else _referred(split, out)
    categories = [{"id": category.id, "name": category.name} for category in split.categories]
    parts = {
        "info": {"description": f"converted by retinanet-fast from {split.annotations.resolve()}"},
        "licenses": [],
        "categories": categories,
    }

    def write(file: IO[bytes]) -> None:
        import msgspec

        file.write(msgspec.json.encode(parts)[:-1])
        for key, entries in (("images", _images(split, names)), ("annotations", _annotations(split))):
            file.write(f',\n"{key}": ['.encode())
            _write_entries(file, entries)
            file.write(b"]")
        file.write(b"}\n")

    write_atomically(path, write)
    return path


def _write_entries(file: IO[bytes], entries: Iterable[dict[str, Any]]) -> None:
    import msgspec

    encode, between = msgspec.json.Encoder().encode, b"\n"
    for entry in entries:
        file.write(between + encode(entry))
        between = b",\n"


def _images(split: Split, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    for image, name in zip(split.images, names):
        yield {"id": image.id, "file_name": name, "width": image.width, "height": image.height}


def _annotations(split: Split) -> Iterator[dict[str, Any]]:
    image_ids = split.images.ids[split.owners].tolist()
    for number, (box, image_id) in enumerate(zip(split.boxes, image_ids), 1):
        yield {
            "id": number,  # from 1: COCO's own evaluation takes an annotation 0 for none
            "image_id": image_id,
            "category_id": box.category_id,
            "bbox": [box.x, box.y, box.width, box.height],
            "area": box.area,
            "iscrowd": int(box.crowd),
        }


def _referred(split: Split, out: Path) -> Iterator[str]:
    """Each image's path from ``out``; of the folders as they are, since ``..`` leaves a link by its target."""
    start, real = os.path.realpath(out), dict[Path, str]()
    for image in split.images:
        folder = image.path.parent
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        path = os.path.join(real[folder], image.path.name)
        try:
            yield Path(os.path.relpath(path, start)).as_posix()
        except ValueError:  # on another drive of Windows
            yield Path(path).as_posix()


def _copied(split: Split, folder: Path) -> list[str]:
    """Copy the images; returns their names in the folder."""
    names: list[str] = []
    sources: dict[str, Path] = {}
    for image in split.images:
        names.append(_inside(image))
        other = sources.setdefault(names[-1].lower(), image.path)
        if other != image.path:
            raise InputError(
                f"{image.path}: would be copied to the name of {other}; without --copy-images it stays"
            )
    progress = Progress("copy images", len(names))
    for done, (image, name) in enumerate(zip(split.images, names)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, folder / name)
        if progress.due():
            progress.draw(done + 1)
    progress.close()
    return names


def _inside(image: ImageEntry) -> str:
    """An image's name without what leads out of a folder."""
    path = Path(image.file_name)
    return Path(*(part for part in path.parts if part not in (path.anchor, ".."))).as_posix()
