"""Data sets in each form that is read: round trips, and what is wrong with an entry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data_forms
import data_sets
import pytest

from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.data.sources import FORMATS, locate, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.run_record import DataRecord


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RETINANET_FAST_CACHE", str(folder))
    return folder


def read(
    folder: Path, split: str = "train", format: str = "auto", skip: bool = False
) -> tuple[Split, list[str]]:
    location = locate(folder, split, format)
    assert location is not None
    problems = Problems(skip)
    return read_split(location, problems), problems.messages


Found = dict[str, list[tuple[str, bool, list[float]]]]


def by_name(split: Split) -> Found:
    """Each image's boxes, in their order, with the name of the category, by the file's name."""
    names = dict(split.categories)
    return {
        image.path.name: [(names[box.category_id], box.crowd, list(box[:4])) for box in split.boxes_of(index)]
        for index, image in enumerate(split.images)
    }


def written(document: dict[str, Any]) -> Found:
    """The same of a json."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    return {
        image["file_name"]: [
            (names[entry["category_id"]], bool(entry.get("iscrowd", 0)), [float(v) for v in entry["bbox"]])
            for entry in data_forms.boxes_of(document, image)
        ]
        for image in document["images"]
    }


def same(found: Found, expected: Found) -> bool:
    """Whether two say the same, to a billionth of a pixel: YOLO's parts of the width are rounded in float64."""
    return found.keys() == expected.keys() and all(
        [row[:2] for row in found[name]] == [row[:2] for row in expected[name]]
        and all(a[2] == pytest.approx(b[2], abs=1e-9) for a, b in zip(found[name], expected[name]))
        for name in expected
    )


@pytest.mark.parametrize("format", FORMATS)
def test_blood_cells_are_the_same_in_every_form(tmp_path: Path, format: str) -> None:
    source = data_sets.real("bccd")
    documents = {
        split: json.loads((source / "annotations" / f"instances_{split}.json").read_text())
        for split in ("train", "val", "test")
    }
    for split, document in documents.items():
        data_forms.WRITERS[format](tmp_path, split, document, source / "images")
    counts = []
    for split, document in documents.items():
        found, messages = read(tmp_path, split)
        assert messages == []
        assert same(by_name(found), written(document))
        counts.append((len(found.images), found.count_boxes()))
        assert found.images[0].path.is_file()
    assert counts == [(205, 2804), (87, 1137), (72, 945)]


@pytest.mark.parametrize("format", FORMATS)
def test_rendered_images_are_the_same_in_every_form(tmp_path: Path, format: str) -> None:
    source = tmp_path / "source"
    render_data_set(source, RenderOptions(train=5, val=3, size=64, seed=3))
    for split in ("train", "val"):
        document = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
        for image in document["images"]:
            image["file_name"] = Path(image["file_name"]).name
        images = source / "images" / split
        # Of the two splits each has images of its own, though their names are the same.
        folder = tmp_path / split
        data_forms.WRITERS[format](folder, split, document, images)
        found, messages = read(folder, split, format)
        assert messages == []
        assert same(by_name(found), written(document))
        assert locate(folder, "test") is None
        # What a run writes down of its data leads to the same again.
        recorded = read_split(DataRecord.of(found).location, Problems(False))
        assert recorded.digest() == found.digest()


def test_all_splits_are_of_one_format(tmp_path: Path) -> None:
    """A folder that holds its training split in COCO's form too has no second one in another."""
    source = tmp_path / "source"
    data_sets.write(source, data_sets.document())
    for split in ("train", "val"):
        data_forms.write_yolo(tmp_path / "data", split, data_sets.document(), source / "images")
    location = locate(tmp_path / "data", "val")
    assert location is not None
    assert location.format == "yolo"
    data_sets.write(tmp_path / "data", data_sets.document())
    assert locate(tmp_path / "data", "val") is None
    location = locate(tmp_path / "data", "val", "yolo")
    assert location is not None
    assert location.format == "yolo"
