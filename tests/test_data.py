"""Reading COCO-format data sets, good and bad, and turning them into batches."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import data_sets
import pytest
import torch

from retinanet_fast.engine.data import dataset as data
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.split import Category, Location, Split
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.recipe import Recipe


def read(folder: Path, split: str = "train", skip: bool = False) -> tuple[Split, list[str]]:
    location = locate(folder, split)
    assert location is not None
    problems = Problems(skip)
    return read_split(location, problems), problems.messages


@pytest.mark.parametrize(
    ("split", "images"), [("train", "images"), ("train", "images/train"), ("train", "train"), ("train", ".")]
)
def test_images_are_found_in_the_usual_folders(tmp_path: Path, split: str, images: str) -> None:
    data_sets.write(tmp_path, data_sets.document(), split, images)
    found, _ = read(tmp_path, split)
    assert [image.path.parent.resolve() for image in found.images] == [(tmp_path / images).resolve()] * 2


def test_cocos_own_names_are_found(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document(), "val2017", "val2017")
    found, _ = read(tmp_path, "val")
    assert found.images[0].path == tmp_path / "val2017" / "a.png"
    assert locate(tmp_path, "test") is None


def test_file_names_may_have_folders(tmp_path: Path) -> None:
    document = data_sets.document()
    document["images"][0]["file_name"] = "one/a.png"
    data_sets.write(tmp_path, document)
    found, _ = read(tmp_path)
    assert found.images[0].path == tmp_path / "images" / "one" / "a.png"


def test_a_missing_first_image_does_not_mislead_the_search(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document(), images="images/train")
    (tmp_path / "images" / "train" / "a.png").unlink()
    found, messages = read(tmp_path, skip=True)
    assert [image.id for image in found.images] == [9]
    assert messages == [f"{tmp_path}/images/train/a.png: no such image (image id 7)"]


# A fault for each way in which a json's entries can be wrong, and what the message must say.
Fault = Callable[[dict[str, Any]], Any]
ENTRY_FAULTS: dict[str, tuple[Fault, str]] = {
    "unknown image": (
        lambda d: d["annotations"][0].update(image_id=8),
        "annotations[0] (id 1): image_id 8 is not among the images",
    ),
    "unknown category": (
        lambda d: d["annotations"][1].update(category_id=3),
        "annotations[1] (id 2): category_id 3 is not among the categories",
    ),
    "no width": (lambda d: d["annotations"][0].update(bbox=[4, 6, 0, 8]), "bbox [4, 6, 0, 8] has no area"),
    "negative height": (lambda d: d["annotations"][0].update(bbox=[4, 6, 3, -1]), "has no area"),
    "far outside": (
        lambda d: d["annotations"][0].update(bbox=[400, 6, 10, 8]),
        "bbox [400, 6, 10, 8] is outside its image of 32x24 pixels",
    ),
    "partly outside": (lambda d: d["annotations"][0].update(bbox=[28, 6, 10, 8]), "is outside its image"),
    "three numbers": (
        lambda d: d["annotations"][0].update(bbox=[4, 6, 8]),
        "expected bbox [x, y, width, height]",
    ),
    "not a number": (lambda d: d["annotations"][0].update(bbox=[4, 6, float("nan"), 8]), "expected bbox"),
    "no box": (lambda d: d["annotations"][0].pop("bbox"), "expected bbox"),
    "list as image": (
        lambda d: d["annotations"][0].update(image_id=[7]),
        "image_id [7] is not among the images",
    ),
    "list as category": (
        lambda d: d["annotations"][0].update(category_id=[2]),
        "category_id [2] is not among",
    ),
    "text as annotation": (lambda d: d["annotations"].insert(0, "box"), "annotations[0]: expected an object"),
    "image id twice": (
        lambda d: d["images"].append({**d["images"][1], "file_name": "c.png"}),
        "images[2] (id 9): the id is used twice",
    ),
    "no file name": (
        lambda d: d["images"].append({"id": 3, "width": 4, "height": 4}),
        "images[2] (id 3): expected a file_name",
    ),
    "no image size": (
        lambda d: d["images"].append({"id": 3, "file_name": "c.png", "width": 0, "height": 4}),
        "images[2] (id 3): expected a width and a height in pixels, got 0 and 4",
    ),
    "image size in words": (
        lambda d: d["images"].append({"id": 3, "file_name": "c.png", "width": 4.5, "height": "4"}),
        "images[2] (id 3): expected a width and a height in pixels, got 4.5 and '4'",
    ),
    "crowd as text": (
        lambda d: d["annotations"][0].update(iscrowd="0"),
        "annotations[0] (id 1): expected iscrowd 0 or 1, got '0'",
    ),
    "area that is no number": (
        lambda d: d["annotations"][0].update(area=float("nan")),
        "annotations[0] (id 1): expected an area in pixels, got nan",
    ),
    "nameless category": (
        lambda d: d["categories"].append({"id": 6}),
        "categories[2] (id 6): expected a name",
    ),
    "category id twice": (
        lambda d: d["categories"].append({"id": 5, "name": "cow"}),
        "categories[2]: id 5 is used twice",
    ),
}


@pytest.mark.parametrize("name", ENTRY_FAULTS)
def test_a_bad_entry_is_named_in_one_line(tmp_path: Path, name: str) -> None:
    spoil, expected = ENTRY_FAULTS[name]
    content = data_sets.document()
    data_sets.write(tmp_path, content)
    spoil(content)
    path = tmp_path / "annotations" / "instances_train.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(path))
    assert "\n" not in message


@pytest.mark.parametrize("name", ENTRY_FAULTS)
def test_a_bad_entry_can_be_left_out_and_counted(tmp_path: Path, name: str) -> None:
    spoil, expected = ENTRY_FAULTS[name]
    content = data_sets.document()
    data_sets.write(tmp_path, content)
    spoil(content)
    (tmp_path / "annotations" / "instances_train.json").write_text(json.dumps(content))
    found, messages = read(tmp_path, skip=True)
    assert len(messages) == 1
    assert expected in messages[0]
    assert len(found.images) == 2
    assert len(found.categories) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not json"),
        ('{"images": [', "not json"),
        ("[" * 100_000, "nested too deeply"),
        ("[1, 2]", "expected a json object, got a list"),
        ('{"images": [], "annotations": []}', "expected a list 'categories', got NoneType"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "x"}]}',
            "no images: the data set is empty",
        ),
        ('{"images": [], "annotations": [], "categories": []}', "no categories: the data set is empty"),
    ],
)
def test_a_json_that_is_no_data_set(tmp_path: Path, text: str, expected: str) -> None:
    path = data_sets.write(tmp_path, data_sets.document())
    path.write_text(text)
    with pytest.raises(InputError, match=r"instances_train\.json: ") as caught:
        read(tmp_path, skip=True)
    assert expected in str(caught.value)


def test_what_other_programs_write_is_read(tmp_path: Path) -> None:
    """Windows' byte-order mark, whole numbers with a point, and annotations without area or crowd flag."""
    content = data_sets.document()
    path = data_sets.write(tmp_path, content)
    content["images"][0].update(width=32.0, height=24.0)
    for key in ("area", "iscrowd"):
        del content["annotations"][0][key]
    path.write_text("\ufeff" + json.dumps(content))
    found, _ = read(tmp_path)
    assert (found.images[0].width, found.images[0].height) == (32, 24)
    assert next(iter(found.boxes_of(0))).area == 80
    assert not next(iter(found.boxes_of(0))).crowd


def test_both_readers_of_json_find_the_same(tmp_path: Path) -> None:
    """msgspec's, which passes over what is not asked for, and Python's, for files that hold NaN."""
    content = data_sets.document()
    content["annotations"][0] |= {
        "segmentation": [[1, 2, 3.5]],
        "keypoints": [0] * 51,
        "bbox": [4.25, 6, 10, 8],
    }
    content["annotations"][1]["iscrowd"] = True
    path = data_sets.write(tmp_path, content)
    by_msgspec, _ = read(tmp_path)
    path.write_text(json.dumps({**content, "info": {"version": float("nan")}}))
    by_python, _ = read(tmp_path)
    assert "NaN" in path.read_text()
    assert by_python.digest() == by_msgspec.digest()
    assert next(iter(by_msgspec.boxes)).x == 4.25


def test_numbers_that_no_array_holds_are_named(tmp_path: Path) -> None:
    for key, value, expected in (
        ("image_id", 2**70, "is not among the images"),
        ("category_id", -(2**70), "is not among the categories"),
        ("area", 10**400, "expected an area in pixels"),
        ("iscrowd", 10**400, "expected iscrowd 0 or 1"),
        ("bbox", [0, 0, 10**400, 1], "expected bbox"),
    ):
        content = data_sets.document()
        content["annotations"][0][key] = value
        data_sets.write(tmp_path, content)
        with pytest.raises(InputError, match=expected) as caught:
            read(tmp_path)
        assert len(str(caught.value)) < 400


def test_a_bad_image_is_reported_once_and_not_again_for_its_boxes(tmp_path: Path) -> None:
    content = data_sets.document()
    path = data_sets.write(tmp_path, content)
    content["images"][0]["width"] = 0
    path.write_text(json.dumps(content))
    found, messages = read(tmp_path, skip=True)
    assert [image.id for image in found.images] == [9]
    assert len(messages) == 1
    assert found.count_boxes() == 0
    problems = Problems(skip=True)
    problems.report("a")
    assert problems.summary() == "left out 1 bad entry: a"
    assert problems.summary() is None
    problems.report("a")
    problems.report("b")
    assert problems.summary() == "left out 1 bad entry: b"


def test_a_missing_json_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.json: cannot be read: No such file"):
        read_split(Location(tmp_path / "gone.json", ()), Problems(False))
    with pytest.raises(InputError, match="gone: no such folder"):
        locate(tmp_path / "gone", "train")


def test_a_bad_image_file_is_named(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document())
    file = tmp_path / "images" / "b.png"
    good = file.read_bytes()

    def fault(index: int) -> str:
        split, _ = read(tmp_path)
        sample = data.CocoDataset(split, split.categories)[index]
        assert isinstance(sample, data.BadImage)
        return sample.message

    file.write_text("not an image")
    assert re.fullmatch(r".*b\.png: not a readable image: .*\(image id 9\)", fault(1))
    (tmp_path / "images" / "a.png").write_bytes(good)
    assert fault(0).endswith("a.png: the image is 24x32 pixels, its entry says 32x24 (image id 7)")
    file.unlink()
    with pytest.raises(InputError, match=r"b\.png: no such image \(image id 9\)"):
        read(tmp_path)


def test_no_usable_image_at_all(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document())
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    with pytest.raises(InputError, match="no usable image: the data set is empty"):
        read(tmp_path, skip=True)


def test_a_truncated_image_is_passed_on_when_it_is_decoded(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document())
    split, _ = read(tmp_path)
    data_sets.truncate(tmp_path / "images" / "b.png")
    sample = data.CocoDataset(split, split.categories)[1]
    assert isinstance(sample, data.BadImage)
    assert sample.image_id == 9
    assert sample.message.startswith(f"{tmp_path}/images/b.png: not a readable image: ")


def test_a_box_is_clipped_by_less_than_a_pixel(tmp_path: Path) -> None:
    document = data_sets.document()
    document["annotations"][0]["bbox"] = [-0.5, 6, 33, 18.4]
    data_sets.write(tmp_path, document)
    split, _ = read(tmp_path)
    box = next(iter(split.boxes_of(0)))
    assert (box.x, box.y, box.width, box.height) == (0, 6, 32, 18)


def test_labels_boxes_and_crowds(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document())
    split, _ = read(tmp_path)
    dataset = data.CocoDataset(split, split.categories)
    first, second = dataset[0], dataset[1]
    assert isinstance(first, data.Sample)
    assert isinstance(second, data.Sample)
    # Category 5 is the second one; label 0 is the background. The crowd box is not trained on, but kept.
    assert first.labels.tolist() == [2]
    assert first.boxes.tolist() == [[4, 6, 14, 14]]
    assert split.boxes_of(0).crowd.tolist() == [False, True]
    assert first.image.shape == (3, 24, 32)
    assert first.image.dtype == torch.uint8
    assert first.image[:, 0, 0].tolist() == [10, 20, 30]
    assert second.boxes.shape == (0, 4)
    assert second.labels.shape == (0,)


def test_images_without_boxes_are_an_option(tmp_path: Path) -> None:
    data_sets.write(tmp_path, data_sets.document())
    split, _ = read(tmp_path)
    assert len(data.CocoDataset(split, split.categories, Recipe(keep_empty=True))) == 2
    assert len(data.CocoDataset(split, split.categories, Recipe(keep_empty=False))) == 1


def test_categories_agree_by_id_or_else_by_name(tmp_path: Path) -> None:
    model = [Category(2, "cat"), Category(5, "dog")]

    def ids(*categories: tuple[int, str]) -> list[int | None]:
        split = Split.of(Path("x.json"), [Category(*c) for c in categories])
        return data.category_ids(model, split)

    assert ids((2, "cat"), (5, "dog")) == [2, 5]
    assert ids((5, "dog")) == [None, 5]
    assert ids((1, "dog"), (2, "cat")) == [2, 1]
    assert ids((5, "cat")) == [5, None]
    with pytest.raises(InputError, match=r"x\.json: category 'cow' \(id 8\) is not one that the model"):
        ids((2, "cat"), (8, "cow"))


def test_tiny_coco() -> None:
    folder = data_sets.real("coco_tiny100")
    train, _ = read(folder, "train")
    val, _ = read(folder, "val")
    assert (len(train.images), train.count_boxes(), len(val.images), val.count_boxes()) == (50, 470, 50, 382)
    assert train.boxes.crowd.sum() == 5
    assert len(train.categories) == 80
    assert max(category.id for category in train.categories) == 90  # ids have gaps, labels do not
    dataset = data.CocoDataset(train, train.categories)
    samples = [dataset[index] for index in range(len(dataset))]
    assert sum(len(sample.labels) for sample in samples if isinstance(sample, data.Sample)) == 470 - 5
    for sample in samples:
        assert isinstance(sample, data.Sample)
        height, width = sample.image.shape[1:]
        x1, y1, x2, y2 = sample.boxes.unbind(1)
        assert ((x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height) & (x2 > x1) & (y2 > y1)).all()
        assert ((sample.labels >= 1) & (sample.labels <= 80)).all()


def test_blood_cells() -> None:
    folder = data_sets.real("bccd")
    counts = []
    for name in ("train", "val", "test"):
        split, messages = read(folder, name)
        assert messages == []
        counts.append((len(split.images), split.count_boxes()))
    assert counts == [(205, 2804), (87, 1137), (72, 945)]
    assert [category.name for category in split.categories] == ["RBC", "WBC", "Platelets"]
