"""A resumed run does not open every image again: the check is remembered while the data set stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

import data_sets
import pytest

from retinanet_fast.engine.data import check_files
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.split import ImageEntry
from retinanet_fast.engine.errors import InputError, Problems


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the images whose headers are read."""
    ids: list[int] = []
    look = check_files._fault

    def counted(image: ImageEntry) -> str | None:
        ids.append(image.id)
        return look(image)

    monkeypatch.setattr(check_files, "_fault", counted)
    return ids


def read(
    folder: Path, record: Path | None, skip: bool = True, write: bool = True
) -> tuple[list[int], list[str]]:
    """The ids of the usable images, and what is reported."""
    location = locate(folder, "train")
    assert location is not None
    problems = Problems(skip)
    split = read_split(location, problems, record, write)
    return [image.id for image in split.images], problems.messages


def test_a_second_check_opens_nothing_and_reports_the_same(tmp_path: Path, opened: list[int]) -> None:
    pictures = data_sets.with_squares(tmp_path / "data", 5)
    (pictures / "1.png").write_text("not an image")
    (pictures / "3.png").unlink()
    record = tmp_path / "run" / "checked.json"
    first = read(tmp_path / "data", record)
    assert first[0] == [1, 3, 5]
    assert [message.rpartition("/")[2][:5] for message in first[1]] == ["1.png", "3.png"]
    assert opened == [1, 2, 3, 4, 5]
    opened.clear()
    assert read(tmp_path / "data", record) == first
    assert opened == []
    with pytest.raises(InputError, match=r"1\.png: not a readable image"):
        read(tmp_path / "data", record, skip=False)
    assert [path.name for path in record.parent.iterdir()] == ["checked.json"]


def test_a_changed_data_set_is_checked_again(tmp_path: Path, opened: list[int]) -> None:
    pictures = data_sets.with_squares(tmp_path, 3)
    record = tmp_path / "checked.json"
    read(tmp_path, record)
    annotations = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(annotations.read_text())
    changes = (
        lambda: (pictures / "0.png").rename(pictures / "zero.png"),
        lambda: (pictures / "zero.png").rename(pictures / "0.png"),
        lambda: annotations.write_text(json.dumps({**content, "images": content["images"][:2]})),
        lambda: record.write_text("{"),  # a damaged record is no error: the check is made again
    )
    expected = ([2, 3], [1, 2, 3], [1, 2], [1, 2])
    for change, ids in zip(changes, expected, strict=True):
        change()
        opened.clear()
        assert read(tmp_path, record)[0] == ids
        assert len(opened) >= 2
        opened.clear()
        assert read(tmp_path, record)[0] == ids
        assert opened == []


def test_several_splits_share_a_record(tmp_path: Path, opened: list[int]) -> None:
    record = tmp_path / "checked.json"
    for name in ("a", "b", "a", "b"):
        if not (tmp_path / name).exists():
            data_sets.with_squares(tmp_path / name, 2)
        read(tmp_path / name, record)
    assert opened == [1, 2, 1, 2]


def test_nothing_is_remembered_of_a_check_that_failed_or_may_not_write(
    tmp_path: Path, opened: list[int]
) -> None:
    pictures = data_sets.with_squares(tmp_path, 3)
    record = tmp_path / "checked.json"
    read(tmp_path, record, write=False)
    assert not record.exists()
    (pictures / "1.png").write_text("not an image")
    with pytest.raises(InputError, match=r"1\.png"):
        read(tmp_path, record, skip=False)
    assert not record.exists()
    assert opened == [1, 2, 3, 1, 2]
