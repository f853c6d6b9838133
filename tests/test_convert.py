"""``convert``: a data set in any form becomes COCO's json, which is read again as the same boxes."""

from __future__ import annotations

import json
from pathlib import Path

import data_forms
import data_sets
import pytest

from retinanet_fast.cli import main
from retinanet_fast.engine.data.sources import FORMATS, locate, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINANET_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(folder: Path, split: str = "train") -> Split:
    location = locate(folder, split)
    assert location is not None
    return read_split(location, Problems(False))


def convert(data: Path, out: Path, *words: str) -> int:
    return main(["convert", "--data", str(data), "--out", str(out), *words])


def write(folder: Path, format: str, split: str = "train") -> Path:
    data_sets.write(folder / "source", data_sets.document())
    data_forms.WRITERS[format](folder / format, split, data_sets.document(), folder / "source" / "images")
    return folder / format


def same(found: Split, expected: Split) -> None:
    """Every image with its id, its file and its boxes, bit for bit."""
    assert found.categories == expected.categories
    assert found.images.ids.tolist() == expected.images.ids.tolist()
    assert found.images.sizes.tolist() == expected.images.sizes.tolist()
    assert found.starts.tolist() == expected.starts.tolist()
    for name in ("xywh", "category_ids", "areas", "crowd"):
        assert getattr(found.boxes, name).tolist() == getattr(expected.boxes, name).tolist()
    for one, other in zip(found.images, expected.images):
        assert one.path.resolve().samefile(other.path.resolve())


@pytest.mark.parametrize("format", FORMATS)
def test_a_converted_data_set_is_the_same(tmp_path: Path, format: str) -> None:
    data = write(tmp_path, format)
    assert convert(data, tmp_path / "out") == 0
    location = locate(tmp_path / "out", "train")
    assert location is not None
    assert location.format == "coco"
    same(read(tmp_path / "out"), read(data))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_blood_cells(tmp_path: Path, split: str) -> None:
    source = data_sets.real("bccd")
    document = json.loads((source / "annotations" / f"instances_{split}.json").read_text())
    data_forms.write_voc(tmp_path / "voc", split, document, source / "images")
    assert convert(tmp_path / "voc", tmp_path / "out") == 0
    same(read(tmp_path / "out", split), read(tmp_path / "voc", split))


def test_copied_images_need_the_source_no_more(tmp_path: Path) -> None:
    data = write(tmp_path, "objects365")
    assert convert(data, tmp_path / "out", "--copy-images") == 0
    expected = read(data)
    content = {image.id: image.path.read_bytes() for image in expected.images}
    data.rename(tmp_path / "gone")
    (tmp_path / "source").rename(tmp_path / "away")
    found = read(tmp_path / "out")
    assert {image.id: image.path.read_bytes() for image in found.images} == content
    assert found.images[0].path == tmp_path / "out" / "images" / "train" / "patch8" / "a.png"


def test_images_that_are_referred_to_can_be_copied_later(tmp_path: Path) -> None:
    """Their names lead out of the folder, the copies' do not."""
    assert convert(write(tmp_path, "voc"), tmp_path / "first") == 0
    assert read(tmp_path / "first").images[0].file_name.startswith("../")
    assert convert(tmp_path / "first", tmp_path / "second", "--copy-images") == 0
    found = read(tmp_path / "second")
    assert all((tmp_path / "second" / "images") in image.path.parents for image in found.images)
    assert not any(".." in image.file_name for image in found.images)
    assert found.digest() != read(tmp_path / "first").digest()
    assert found.boxes.xywh.tolist() == read(tmp_path / "first").boxes.xywh.tolist()


def test_the_folder_itself_can_take_the_json(tmp_path: Path) -> None:
    data = write(tmp_path, "yolo")
    expected = read(data)
    assert convert(data, data) == 0
    location = locate(data, "train")
    assert location is not None
    assert location.format == "coco"
    same(read(data), expected)


def test_a_folder_behind_a_link(tmp_path: Path) -> None:
    """``..`` from a link leads to where its target lies."""
    data = write(tmp_path, "voc")
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "deeper")
    assert convert(data, tmp_path / "link" / "out") == 0
    same(read(tmp_path / "link" / "out"), read(data))


def test_two_images_of_one_name_are_not_copied_over_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = data_sets.document()
    document["images"][0]["file_name"] = "../images/b.png"
    data_sets.write(tmp_path / "data", document)
    for image, name in zip(document["images"], ("../other/b.png", "other/b.png")):
        image["file_name"] = name
    data_sets.write(tmp_path / "data", document)
    assert convert(tmp_path / "data", tmp_path / "out", "--copy-images") == 2
    assert "would be copied to the name of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_json_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data_sets.write(tmp_path / "data", data_sets.document())
    before = path.read_bytes()
    assert convert(tmp_path / "data", tmp_path / "data") == 2
    assert f"{path}: exists already" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_bad_entries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, "yolo")
    (data / "labels" / "train" / "b.txt").write_text("7 .5 .5 .5 .5")
    assert convert(data, tmp_path / "out") == 2
    assert "b.txt: line 1: expected a class from 0 to 1, got 7 (--skip-bad" in capsys.readouterr().err
    assert convert(data, tmp_path / "out", "--skip-bad") == 0
    assert "left out 1 bad entry" in capsys.readouterr().err
    assert len(read(tmp_path / "out").images) == 2


def test_what_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, "voc")
    assert convert(data, tmp_path / "out") == 0
    path = tmp_path / "out" / "annotations" / "instances_train.json"
    assert capsys.readouterr().out == f"{path}: 2 images, 2 boxes, 2 categories\n"
    content = json.loads(path.read_text())
    assert content["images"][0] == {
        "id": 1,
        "file_name": "../voc/JPEGImages/a.png",
        "width": 32,
        "height": 24,
    }
    assert content["annotations"] == [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [4, 6, 10, 8], "area": 80, "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 32, 24], "area": 768, "iscrowd": 1},
    ]
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
