"""Reads Objects365 (Shao et al., 2019): a json as COCO's, whose images lie in folders of some thousands each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retinanet_fast.engine.data.coco import read_annotations
from retinanet_fast.engine.data.image_files import count_present, find_files
from retinanet_fast.engine.data.split import Images, Location, Split, Texts
from retinanet_fast.engine.errors import Problems

__all__ = ["LAYOUT", "locate", "read_annotations", "read_split"]

LAYOUT = "zhiyuan_objv2_{split}.json or objects365_{split}.json with {split}/patch*/"


def locate(data: Path, split: str) -> Location | None:
    """A split's json, version 2's or version 1's, in the folder or its ``annotations/``."""
    for folder in (data / "annotations", data):
        for name in (f"zhiyuan_objv2_{split}.json", f"objects365_{split}.json"):
            if (folder / name).is_file():
                folders = (data / split, data / "images" / split, data / "images", data)
                return Location(folder / name, folders, "objects365")
    return None


def read_split(location: Location, problems: Problems) -> Split:
    """See ``sources.read_split``.

    The json names ``images/v1/patch8/objects365_v1_00420917.jpg``. Most copies of the images have
    ``patch8/objects365_v1_00420917.jpg`` below a split's folder, some ``v1/patch8/`` or no folders: the names are cut
    to what the first images have.
    """
    split = read_annotations(location.annotations, problems)
    longest = 1 + max(name.count("/") for name in split.images.names)
    cuts = [_cut(split.images, parts) for parts in range(longest, 0, -1)]
    images = max(
        (images.at(folder) for images in cuts for folder in location.image_folders),
        key=count_present,
        default=split.images,
    )
    return find_files(replace(split, images=images), (images.folder,), problems)


def _cut(images: Images, parts: int) -> Images:
    """The images with the last ``parts`` parts of their names."""
    names = Texts.of("/".join(name.split("/")[-parts:]) for name in images.names)
    return Images(images.ids, images.sizes, names, images.folder)
