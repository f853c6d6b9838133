"""Reads LVIS (Gupta et al., 2019): a json as COCO's, whose images are COCO's own and named by their ``coco_url``."""

from __future__ import annotations

from pathlib import Path

from retinanet_fast.engine.data.coco import read_annotations, read_split
from retinanet_fast.engine.data.split import Location

__all__ = ["LAYOUT", "locate", "read_annotations", "read_split"]

LAYOUT = "lvis_v1_{split}.json with COCO's train2017/ and val2017/"


def locate(data: Path, split: str) -> Location | None:
    """A split's json, in the folder or its ``annotations/``. Its images may be of any of COCO's splits: their names
    begin with the folder, such as ``train2017/``, in the folder itself or in its ``images/`` or ``coco/``."""
    for folder in (data, data / "annotations"):
        for version in ("v1", "v0.5"):
            annotations = folder / f"lvis_{version}_{split}.json"
            if annotations.is_file():
                return Location(annotations, (data, data / "images", data / "coco"), "lvis")
    return None
