"""The benchmark on data of COCO's size: its data set is COCO's in form and numbers. No test here judges a time."""

from __future__ import annotations

import filecmp
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # benchmarks/ is not installed

from benchmarks.data_scale import generate
from benchmarks.data_scale.sizes import SCALES
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.errors import Problems

TINY = SCALES["tiny"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate.generated(tmp_path_factory.mktemp("data") / "tiny", TINY)


def document(data: Path, split: str) -> Any:
    return json.loads((data / "annotations" / f"instances_{split}.json").read_text())


# --- the generated data set


@pytest.mark.parametrize("number", [0, 1])
def test_the_program_reads_every_entry(data: Path, number: int) -> None:
    """No entry is reported, which would raise, and no box was dropped."""
    expected = TINY.splits[number]
    location = locate(data, expected.name.removesuffix("2017"))
    assert location is not None
    split = read_split(location, Problems(skip=False))
    assert (len(split.images), split.count_boxes()) == (expected.images, expected.boxes)
    for image in split.images:
        with Image.open(image.path) as picture:
            assert picture.size == (image.width, image.height)


def test_the_json_has_what_cocos_has(data: Path) -> None:
    content = document(data, "train2017")
    assert content.keys() == {"info", "licenses", "images", "annotations", "categories"}
    assert len(content["categories"]) == 80
    assert {category["id"] for category in content["categories"]} < set(range(1, 91))  # with gaps
    owners = [entry["image_id"] for entry in content["annotations"]]
    assert owners != sorted(owners)  # in no order
    assert len({Path(image["file_name"]).parent for image in content["images"]}) == TINY.folders
    crowds = [entry for entry in content["annotations"] if entry["iscrowd"]]
    assert crowds
    for entry in crowds:
        height, width = entry["segmentation"]["size"]
        assert sum(entry["segmentation"]["counts"]) == height * width
    assert all(len(entry["keypoints"]) == 51 for entry in content["annotations"] if entry["category_id"] == 1)
    polygons = [entry["segmentation"][0] for entry in content["annotations"] if not entry["iscrowd"]]
    mean = sum(map(len, polygons)) / 2 / len(polygons)
    assert mean == pytest.approx(
        TINY.polygon_points, abs=2
    )  # 430 draws between half and one and a half of it


def test_the_same_seed_writes_the_same_bytes(data: Path, tmp_path: Path) -> None:
    again = generate.generated(tmp_path / "again", TINY)
    files = [path.relative_to(data) for path in data.rglob("*") if path.is_file()]
    assert len(files) == sum(split.images for split in TINY.splits) + len(TINY.splits) + 1
    _, differing, missing = filecmp.cmpfiles(data, again, [str(file) for file in files], shallow=False)
    assert (differing, missing) == ([], [])


def test_distinct_files_are_no_links_and_the_same_pictures(data: Path, tmp_path: Path) -> None:
    distinct = generate.generated(tmp_path / "distinct", TINY, distinct=True)
    for path in sorted(distinct.rglob("*.jpg")):
        assert path.stat().st_nlink == 1
        with Image.open(path) as found, Image.open(data / path.relative_to(distinct)) as expected:
            assert found.tobytes() == expected.tobytes()
    contents = {path.read_bytes() for path in distinct.rglob("*.jpg")}
    assert len(contents) == sum(split.images for split in TINY.splits)


def test_a_folder_that_is_whole_is_kept_and_another_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    json_file = data / "annotations" / "instances_train2017.json"
    before = json_file.stat().st_mtime_ns
    generate.generated(data, TINY)
    assert json_file.stat().st_mtime_ns == before
    own = tmp_path / "annotations" / "instances_train2017.json"  # somebody's own data set
    own.parent.mkdir()
    own.write_text("mine")
    assert generate.main(["--out", str(tmp_path), "--scale", "tiny"]) == 2
    assert own.read_text() == "mine"
