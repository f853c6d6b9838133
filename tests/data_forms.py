"""Writes a COCO-format split in the other forms that are read, for round trips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Document = dict[str, Any]
Writer = Callable[[Path, str, Document, Path], None]


def place(images: Path, document: Document, folder: Path) -> None:
    """Put the images of a document into a folder, as links."""
    for image in document["images"]:
        target = folder / image["file_name"]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to((images / image["file_name"]).resolve())


def boxes_of(document: Document, image: dict[str, Any]) -> list[dict[str, Any]]:
    return [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]


def write_coco(folder: Path, split: str, document: Document, images: Path) -> None:
    place(images, document, folder / "images")
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))


def write_voc(folder: Path, split: str, document: Document, images: Path) -> None:
    place(images, document, folder / "JPEGImages")
    for name in ("Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    names = {category["id"]: category["name"] for category in document["categories"]}
    for image in document["images"]:
        lines = ["<annotation>", f"<filename>{escape(image['file_name'])}</filename>"]
        lines += [f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"]
        for entry in boxes_of(document, image):
            x, y, width, height = entry["bbox"]
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (x + 1, y + 1, x + width, y + height))
            box = "".join(f"<{side}>{value}</{side}>" for side, value in corners)
            name = f"<name>{escape(names[entry['category_id']])}</name>"
            difficult = f"<difficult>{entry.get('iscrowd', 0)}</difficult>"
            lines.append(f"<object>{name}{difficult}<bndbox>{box}</bndbox></object>")
        stem = Path(image["file_name"]).stem
        (folder / "Annotations" / f"{stem}.xml").write_text("\n".join([*lines, "</annotation>"]))
    stems = [Path(image["file_name"]).stem for image in document["images"]]
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")


def write_yolo(folder: Path, split: str, document: Document, images: Path) -> None:
    place(images, document, folder / "images" / split)
    (folder / "labels" / split).mkdir(parents=True)
    numbers = {category["id"]: number for number, category in enumerate(document["categories"])}
    for image in document["images"]:
        lines = []
        for entry in boxes_of(document, image):
            x, y, width, height = entry["bbox"]
            across, down = image["width"], image["height"]
            row = ((x + width / 2) / across, (y + height / 2) / down, width / across, height / down)
            lines.append(f"{numbers[entry['category_id']]} " + " ".join(map(repr, row)))
        text = Path(image["file_name"]).with_suffix(".txt").name
        (folder / "labels" / split / text).write_text("\n".join(lines))
    names = [f"- {json.dumps(category['name'])}" for category in document["categories"]]
    places = [f"{path.name}: images/{path.name}" for path in (folder / "images").iterdir()]
    (folder / "data.yaml").write_text("\n".join(["path: .", *places, "names:", *names]) + "\n")


def write_lvis(folder: Path, split: str, document: Document, images: Path) -> None:
    place(images, document, folder / "train2017")
    entries = [
        {
            **{key: value for key, value in image.items() if key != "file_name"},
            "coco_url": f"http://images.cocodataset.org/train2017/{image['file_name']}",
            "neg_category_ids": [],
            "not_exhaustive_category_ids": [],
        }
        for image in document["images"]
    ]
    (folder / f"lvis_v1_{split}.json").write_text(json.dumps({**document, "images": entries}))


def write_objects365(folder: Path, split: str, document: Document, images: Path) -> None:
    place(images, document, folder / split / "patch8")
    entries = [
        {**image, "file_name": f"images/v1/patch8/{image['file_name']}"} for image in document["images"]
    ]
    annotations = [{**entry, "isfake": 0} for entry in document["annotations"]]
    path = folder / "annotations" / f"zhiyuan_objv2_{split}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**document, "images": entries, "annotations": annotations}))


WRITERS: dict[str, Writer] = {
    "coco": write_coco,
    "lvis": write_lvis,
    "objects365": write_objects365,
    "voc": write_voc,
    "yolo": write_yolo,
}
