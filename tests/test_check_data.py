"""``check-data``: everything about a data set, all that is wrong with it, and nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import data_forms
import data_sets
import pytest
from PIL import Image

from retinanet_fast.cli import main
from retinanet_fast.engine.data import image_facts


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RETINANET_FAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def check(folder: Path, *words: str) -> int:
    return main(["check-data", "--data", str(folder), "--workers", "0", *words])


def spoilt(folder: Path) -> list[str]:
    """A data set with a fault of each kind; returns what is to be said of them."""
    document = data_sets.document()
    document["images"].append({"id": 11, "file_name": "c.png", "width": 30, "height": 20})
    document["images"].append({"id": 12, "file_name": "d.png", "width": 30, "height": 20})
    path = data_sets.write(folder, document)
    document["annotations"][0]["bbox"] = [4, 6, 0, 8]
    document["annotations"][1]["category_id"] = 3
    document["annotations"].append(
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [1, 1, 4, 4], "area": 0}
    )
    path.write_text(json.dumps(document))
    images = folder / "images"
    images.joinpath("a.png").write_bytes(images.joinpath("a.png").read_bytes()[:-30])
    images.joinpath("c.png").unlink()
    Image.new("RGB", (20, 31)).save(images / "d.png")
    return [
        f"{path}: annotations[0] (id 1): bbox [4, 6, 0, 8] has no area",
        f"{path}: annotations[1] (id 2): category_id 3 is not among the categories",
        f"{images}/c.png: no such image (image id 11)",
        f"{images}/a.png: not a readable image: ",
        f"{images}/d.png: the image is 20x31 pixels, its entry says 30x20 (image id 12)",
    ]


def test_all_problems_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = spoilt(tmp_path / "data")
    assert check(tmp_path / "data") == 2
    said = capsys.readouterr()
    assert said.err == f"retinanet-fast: {tmp_path}/data: 5 problems, listed above\n"
    lines = said.out.splitlines()
    assert [line[: len(text)] for line, text in zip(lines[-5:], expected)] == expected
    assert "images      1, of 24x32 pixels; 0 without boxes" in said.out
    assert "boxes       1, of 4x4 pixels; 0 crowds; 1 with an area of 0" in said.out
    assert "categories  2: cat 1, dog 0; 1 without boxes: dog" in said.out


def test_a_second_check_opens_what_has_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoilt(tmp_path / "data")
    check(tmp_path / "data")
    first = capsys.readouterr()
    opened: list[str] = []
    look = image_facts.look_at

    def counted(path: str, decode: bool) -> Any:
        opened.append(Path(path).name)
        return look(path, decode)

    monkeypatch.setattr(image_facts, "look_at", counted)
    assert check(tmp_path / "data") == 2
    assert capsys.readouterr() == first
    assert opened == []
    Image.new("RGB", (30, 20)).save(tmp_path / "data" / "images" / "d.png")
    check(tmp_path / "data")
    assert opened == ["d.png"]
    assert "4 problems" in capsys.readouterr().err


def test_nothing_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = data_sets.document()
    for split in ("train", "val"):
        data_sets.write(tmp_path / "data", document, split)
    assert check(tmp_path / "data") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"train: {tmp_path}/data/annotations/instances_train.json (coco)"
    assert lines[1:5] == [
        "  images      2, from 32x24 to 24x32 pixels; 1 without boxes",
        "  boxes       2, from 10x8 to 32x24 pixels; 1 crowd; 0 with an area of 0",
        "  categories  2: cat 1, dog 1; 0 without boxes",
        "  EXIF        no turned photo",
    ]
    assert lines[-1] == "nothing is wrong"
    assert check(tmp_path / "data", "--split", "val") == 0
    assert capsys.readouterr().out.startswith("val: ")


def test_photos_that_exif_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = data_sets.document()
    for image in document["images"]:
        image["file_name"] = image["file_name"].replace("png", "jpg")
    data_sets.write(tmp_path / "data", document)
    exif = Image.Exif()
    exif[0x0112] = 6
    images = tmp_path / "data" / "images"
    Image.new("RGB", (24, 32)).save(images / "a.jpg", exif=exif)  # its entry says 32x24: upright
    Image.new("RGB", (24, 32)).save(images / "b.jpg", exif=exif)  # its entry says 24x32: as stored
    assert check(tmp_path / "data") == 0
    said = capsys.readouterr().out
    assert "EXIF        2 turned photos: 1 with an entry as it is turned, 1 with one as it is stored" in said


def test_a_category_that_the_training_split_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = data_sets.document()
    data_sets.write(tmp_path / "data", document)
    document["categories"] = [*document["categories"], {"id": 8, "name": "cow"}]
    data_sets.write(tmp_path / "data", document, "val")
    assert check(tmp_path / "data") == 2
    said = capsys.readouterr()
    assert "instances_val.json: category 'cow' (id 8) is not one that the model was trained on" in said.out
    assert "1 problem, listed above" in said.err


@pytest.mark.parametrize("format", ["voc", "yolo", "lvis", "objects365"])
def test_other_formats_are_checked(tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    data_sets.write(tmp_path / "source", data_sets.document())
    data_forms.WRITERS[format](
        tmp_path / "data", "train", data_sets.document(), tmp_path / "source" / "images"
    )
    assert check(tmp_path / "data") == 0
    said = capsys.readouterr().out
    assert f"({format})" in said.splitlines()[0]
    assert "boxes       2, from 10x8 to 32x24 pixels" in said
    (tmp_path / "source" / "images" / "a.png").write_text("no picture")
    assert check(tmp_path / "data", "--format", format) == 2
    assert "a.png: not a readable image: " in capsys.readouterr().out


def test_what_cannot_be_read_at_all_is_a_problem_of_its_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_sets.write(tmp_path / "data", data_sets.document())
    data_sets.write(tmp_path / "data", data_sets.document(), "val").write_text("{")
    assert check(tmp_path / "data") == 2
    said = capsys.readouterr()
    assert "val: " in said.out
    assert "nothing in it can be used" in said.out
    assert "instances_val.json: not json: " in said.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--split", "test"], "data: no split 'test': looked for annotations/instances_test.json, or "),
        (["--format", "voc"], "data: no split 'train': looked for ImageSets/Main/train.txt with "),
        (["--workers", "-1"], "--workers: expected a number from 0 on, got -1"),
    ],
)
def test_words_that_make_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    data_sets.write(tmp_path / "data", data_sets.document())
    assert check(tmp_path / "data", *words) == 2
    assert expected in capsys.readouterr().err


def test_real_images_are_without_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", "--data", str(data_sets.real("coco_tiny100"))]) == 0
    said = capsys.readouterr().out
    assert "images      50, from 301x450 to 639x640 pixels; 1 without boxes" in said
    assert "boxes       470, from 3.05x7.35 to 471.73x588.22 pixels; 5 crowds; 0 with an area of 0" in said
