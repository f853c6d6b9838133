"""What is wrong in an XML file, or in a text file of YOLO's, is named in one line, or left out and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import data_forms
import data_sets
import numpy as np
import pytest
from PIL import Image

from retinanet_fast.engine.data import box_rules
from retinanet_fast.engine.data.sources import locate, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError, Problems


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETINANET_FAST_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(folder: Path, format: str) -> Path:
    """``data_sets.document``, with a box of each category in the second image too; returns the folder."""
    source, document = folder / "source", data_sets.document()
    for number, category_id in ((3, 2), (4, 5)):
        entry = {"id": number, "image_id": 9, "category_id": category_id, "bbox": [1, 1, 4, 4]}
        document["annotations"].append(entry)
    data_sets.write(source, document)
    data_forms.WRITERS[format](folder / format, "train", document, source / "images")
    return folder / format


def read(folder: Path, skip: bool = False) -> tuple[Split, list[str]]:
    location = locate(folder, "train")
    assert location is not None
    problems = Problems(skip)
    return read_split(location, problems), problems.messages


def replace(path: str, old: str, new: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text
        (folder / path).write_text(text.replace(old, new, 1))

    return spoil


def content(path: str, new: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(new) and None  # type: ignore[func-returns-value]


XML, TXT, LIST = "Annotations/a.xml", "labels/train/a.txt", "ImageSets/Main/train.txt"
# What is spoiled, what the message says, and how many images and boxes are left.
FAULTS = {
    "voc no name": (replace(XML, "<name>dog</name>", ""), "a.xml: object[0]: expected a name", 2, 3),
    "voc no number": (
        replace(XML, "<ymax>14</ymax>", "<ymax>x</ymax>"),
        "a.xml: object[0] (dog): expected a bndbox with the numbers xmin, ymin, xmax, ymax",
        2,
        3,
    ),
    "voc not finite": (replace(XML, "<ymax>14<", "<ymax>inf<"), "object[0] (dog): expected a bndbox", 2, 3),
    "voc no area": (
        replace(XML, "<xmax>14<", "<xmax>4<"),
        "object[0] (dog): bbox [4.0, 6.0, 0.0, 8.0] has no",
        2,
        3,
    ),
    "voc outside": (replace(XML, "<xmax>14<", "<xmax>40<"), "is outside its image of 32x24 pixels", 2, 3),
    "voc no size": (
        replace(XML, "<width>32</width>", "<width>0</width>"),
        "a.xml: expected a size/width and a size/height in pixels, got '0' and '24'",
        1,
        2,
    ),
    "voc cut off": (content(XML, b"<annotation><object>"), "a.xml: not XML: ", 1, 2),
    "voc encoding": (
        content(XML, b"<?xml version='1.0' encoding='x'?><a/>"),
        "a.xml: not XML: unknown",
        1,
        2,
    ),
    "voc no file": (lambda folder: (folder / XML).unlink(), "a.xml: no such annotation (listed in ", 1, 2),
    "voc no image": (
        lambda folder: (folder / "JPEGImages" / "a.png").unlink(),
        "JPEGImages/a: no such image, of any kind (listed in ",
        1,
        2,
    ),
    "voc twice": (replace(LIST, "a\n", "a\nb\n"), "train.txt: 'b' is listed twice", 2, 4),
    "yolo word": (replace(TXT, "1 ", "dog "), "a.txt: line 1: expected a class and cx, cy, w, h, or", 2, 3),
    "yolo class": (replace(TXT, "1 ", "2 "), "a.txt: line 1: expected a class from 0 to 1, got 2", 2, 3),
    "yolo half a class": (replace(TXT, "1 ", "0.5 "), "line 1: expected a class from 0 to 1, got 0.5", 2, 3),
    "yolo pixels": (content(TXT, b"0 16 12 8 8"), "line 1: expected parts of the picture, from 0 to 1", 2, 2),
    "yolo outside": (content(TXT, b"0 1 1 .5 .5"), "outside its image of 32x24 pixels", 2, 2),
    "yolo no area": (content(TXT, b"0 .5 .5 0 .5"), "line 1: bbox [16.0, 6.0, 0.0, 12.0] has no area", 2, 2),
    "yolo nan": (content(TXT, b"0 nan .5 .5 .5"), "line 1: expected a class and cx, cy, w, h", 2, 2),
    "yolo corner": (content(TXT, b"0 .1 .1 .5 .1 .5 .5 .1"), "or a class and the corners of a polygon", 2, 2),
    "yolo bytes": (content(TXT, b"\xff\xfe0"), "a.txt: expected text in UTF-8, found other bytes", 2, 2),
    "yolo image": (
        lambda folder: (
            (folder / "images/train/a.png").unlink(),
            (folder / "images/train/a.png").write_text("no"),
        ),
        "a.png: not a readable image: ",
        1,
        2,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_entry_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    spoil, expected, images, boxes = FAULTS[name]
    folder = write(tmp_path, name.split()[0])
    spoil(folder)
    with pytest.raises(InputError) as caught:
        read(folder)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    found, messages = read(folder, skip=True)
    assert len(messages) == 1
    assert expected in messages[0]
    assert (len(found.images), found.count_boxes()) == (images, boxes)


# What is wrong with the file that describes a data set: nothing of it can be used.
DESCRIPTIONS = {
    "names: [": "data.yaml: not YAML: ",
    "[1, 2]": "data.yaml: expected names and folders of a data set, got a list",
    "train: images/train": "data.yaml: expected a list of names of the classes, got a NoneType",
    "train: images/train\nnames: {0: a, 2: b}": "data.yaml: expected names of classes 0 to 1, without gaps",
    "train: images/train\nnames: [[a]]": "data.yaml: names[0]: expected a text, got a list",
    "train: 5\nnames: [a]": "data.yaml: train: expected a folder or a list, got a int",
    "train: gone\nnames: [a]": "data.yaml: train: 'gone' does not exist; looked for ",
    "train: labels\nnames: [a]": "labels: no pictures: the data set is empty",
    "train: !!timestamp x\nnames: [a]": "data.yaml: not YAML: ",
    "[" * 5000: "data.yaml: not YAML: ",
}


@pytest.mark.parametrize("text", DESCRIPTIONS, ids=lambda text: text[:40].replace("\n", " "))
def test_a_description_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, "yolo")
    (folder / "data.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read(folder, skip=True)
    assert DESCRIPTIONS[text] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_with_labels_needs_names(tmp_path: Path) -> None:
    folder = write(tmp_path, "yolo")
    (folder / "data.yaml").unlink()
    with pytest.raises(
        InputError, match=r"labels/ without names of the classes: expected data\.yaml, or classes"
    ):
        locate(folder, "train")
    (folder / "classes.txt").write_text("cat\ndog\n")
    found, _ = read(folder)
    assert [tuple(category) for category in found.categories] == [(1, "cat"), (2, "dog")]
    assert locate(folder, "val") is None


@pytest.mark.parametrize(
    "text",
    [
        "train: ../train/images\nval: ../valid/images\nnames: {0: cat, 1: dog}",
        "path: /moved\ntrain: train/images\nnames: [cat, dog]",
    ],
)
def test_where_roboflow_and_a_moved_folder_have_their_pictures(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path, "yolo")
    for kind in ("images", "labels"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / kind / "train").rename(folder / "train" / kind)
    (folder / "data.yaml").write_text(text)
    if "valid" in text:
        (folder / "valid" / "images").mkdir(parents=True)
    found, _ = read(folder)
    assert found.count_boxes() == 4
    assert found.images[0].path == folder / "train" / "images" / "a.png"


def test_a_list_of_pictures(tmp_path: Path) -> None:
    folder = write(tmp_path, "yolo")
    (folder / "train.txt").write_text(
        f"./images/train/b.png\n{folder}/images/train/a.png\n./images/train/b.png\n"
    )
    (folder / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]")
    with pytest.raises(InputError, match=r"b\.png: listed twice"):
        read(folder)
    found, _ = read(folder, skip=True)
    assert [image.file_name for image in found.images] == ["images/train/b.png", "images/train/a.png"]
    assert found.count_boxes() == 4


def test_polygons_and_key_points_give_their_boxes(tmp_path: Path) -> None:
    folder = write(tmp_path, "yolo")
    (folder / TXT).write_text("1 .25 .25 .5 .75 .75 .5\n\n0 .25 .25 .5 .75 .25\n")
    found, messages = read(folder, skip=True)
    assert found.boxes_of(0).xywh.tolist() == [[8, 6, 16, 12]]
    assert len(messages) == 1
    (folder / "data.yaml").write_text("train: images/train\nkpt_shape: [1, 2]\nnames: [cat, dog]")
    (folder / TXT).write_text("1 .5 .5 .5 .5 .1 .1\n")
    assert read(folder)[0].boxes_of(0).xywh.tolist() == [[8, 6, 16, 12]]


def test_photos_count_as_exif_turns_them(tmp_path: Path) -> None:
    """A stored picture of 32x24 pixels that is to be turned by a quarter: YOLO's parts are those of 24x32."""
    folder = write(tmp_path, "yolo")
    path = folder / "images" / "train" / "a.png"
    path.unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (32, 24)).save(path, exif=exif)
    (folder / TXT).write_text("0 .5 .5 1 1")
    found, _ = read(folder)
    assert found.boxes_of(0).xywh.tolist() == [[0, 0, 24, 32]]
    assert (found.images[0].width, found.images[0].height) == (24, 32)


def test_difficult_objects_are_crowds(tmp_path: Path) -> None:
    found, _ = read(write(tmp_path, "voc"))
    assert [(box.category_id, box.crowd) for box in found.boxes_of(0)] == [(2, False), (1, True)]
    assert [tuple(category) for category in found.categories] == [(1, "cat"), (2, "dog")]


def test_voc_names_are_those_of_all_splits(tmp_path: Path) -> None:
    """So that labels are the same in each."""
    folder = write(tmp_path, "voc")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("b\n")
    location = locate(folder, "val")
    assert location is not None
    found = read_split(location, Problems(False))
    assert [category.name for category in found.categories] == ["cat", "dog"]
    assert found.count_boxes() == 2


@pytest.mark.parametrize("cut", ["images/v1/patch8/", "patch8/", ""])
def test_objects365_images_lie_in_some_of_their_folders(tmp_path: Path, cut: str) -> None:
    folder = write(tmp_path, "objects365")
    (folder / "train" / "patch8").rename(folder / "moved")
    (folder / "train" / cut).parent.mkdir(parents=True, exist_ok=True)
    if cut == "":
        (folder / "train").rmdir()
    (folder / "moved").rename(folder / "train" / cut)
    found, messages = read(folder)
    assert [image.file_name for image in found.images] == [f"{cut}a.png", f"{cut}b.png"]
    assert messages == []


def test_a_box_has_a_fault_where_an_array_of_boxes_says_so() -> None:
    """Boxes of XML and text files are judged one by one, those of a json at once: by the same rule."""
    draw = np.random.default_rng(0)
    # Coordinates on a grid of halves around 0 and the sides, so that many are exactly on a bound.
    xywh = draw.integers(-4, 70, (4000, 4)) / 2
    sizes = draw.integers(20, 34, (4000, 2)).astype(float)
    one_by_one = [box_rules.box_fault(box, size) is None for box, size in zip(xywh.tolist(), sizes.tolist())]
    assert one_by_one == box_rules.inside(xywh, sizes).tolist()
    assert 200 < sum(one_by_one) < 3800
