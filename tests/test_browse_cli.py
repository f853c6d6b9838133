"""`retinanet-fast browse`: which data and detections it takes, and what it says where it cannot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import data_sets
import pytest
import torch
from browse_cases import Parsed

from retinanet_fast.cli import main
from retinanet_fast.engine.data.sources import locate, read_split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.results import Detected, from_list, save_detected, write_results
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.run_folder import RunFolder
from retinanet_fast.engine.run_record import DataRecord, RunRecord

FOUND = [
    {"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9},
    {"image_id": 7, "category_id": 2, "bbox": [20, 2, 8, 8], "score": 0.6},
]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run that was evaluated on image 7, one of the two images of its held-out data."""
    for split in ("train", "val"):
        data_sets.write(tmp_path / "data", data_sets.document(), split)
    location = locate(tmp_path / "data", "val")
    assert location is not None
    split = read_split(location, Problems(False))
    folder = RunFolder(tmp_path / "runs" / "mine")
    record = RunRecord(Recipe(), {"train": DataRecord.of(split), "val": DataRecord.of(split)}, False)
    folder.start(record.started(torch.device("cpu"), 1))
    save_detected(folder.detections, Detected(from_list(FOUND), [7], 5.0, 12))
    return folder


def failure(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with 2."""
    assert main(words) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_a_run_is_enough(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["browse", str(run.path)]) == 0
    assert capsys.readouterr().out.startswith(f"{run.browse_page}: ")
    parsed = Parsed(run.browse_page)
    assert parsed.title == "mine: epoch 12"
    assert parsed.content()["names"] == ["a.png"]  # the other was not read
    assert parsed.content()["folder"] == "../../data/images/"
    assert len(parsed.arrays()["found-scores"]) == 2


def test_data_that_has_moved(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    data = run.path.parents[1] / "data"
    moved = data.rename(data.with_name("moved"))
    line = failure(["browse", str(run.path)], capsys)
    assert f"{data / 'annotations' / 'instances_val.json'}: no such file" in line
    assert "--data DIR" in line
    assert main(["browse", str(run.path), "--data", str(moved), "--out", str(moved / "page.html")]) == 0
    assert Parsed(moved / "page.html").content()["folder"] == "images/"


def test_detections_without_a_run(run: RunFolder) -> None:
    data = run.path.parents[1] / "data"
    shutil.rmtree(run.path)
    write_results(data / "found.json", from_list(FOUND))
    assert main(["browse", "--detections", str(data / "found.json"), "--data", str(data)]) == 0
    parsed = Parsed(data / "browse.html")
    assert parsed.title == "found.json"
    assert parsed.content()["names"] == ["a.png", "b.png"]


def test_a_page_to_send(run: RunFolder) -> None:
    assert main(["browse", str(run.path), "--embed", "1"]) == 0
    assert len(Parsed(run.browse_page).content()["thumbnails"]) == 1


def test_what_is_missing_is_named(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert "expected a run's folder, or --detections FILE with --data DIR" in failure(["browse"], capsys)
    assert "--embed: expected a number above 0, got 0" in failure(
        ["browse", str(run.path), "--embed", "0"], capsys
    )
    run.detections.unlink()
    assert f"{run.detections}: no such file" in failure(["browse", str(run.path)], capsys)
    assert "run.json: cannot be read" in failure(["browse", str(run.path.parent)], capsys)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "image 8 is not in "),
        ({"category_id": 3}, "category_id 3 is not in "),
    ],
)
def test_detections_on_other_data(
    run: RunFolder, capsys: pytest.CaptureFixture[str], change: dict[str, int], message: str
) -> None:
    found = from_list([FOUND[0], {**FOUND[1], **change}])
    save_detected(run.detections, Detected(found, sorted({7, *found.image_id.tolist()}), 5.0, 12))
    line = failure(["browse", str(run.path)], capsys)
    assert message in line
    assert "is this the data of the detections?" in line
    assert main(["browse", str(run.path), "--skip-bad"]) == 0
    assert "left out 1 bad entry" in capsys.readouterr().err
    assert len(Parsed(run.browse_page).arrays()["found-scores"]) == 1


def test_a_run_without_held_out_data(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    file = run.path / "run.json"
    record = json.loads(file.read_text())
    del record["data"]["val"]
    file.write_text(json.dumps(record))
    assert "the run has no held-out data: expected --data DIR" in failure(["browse", str(run.path)], capsys)


def test_another_run_in_its_place_takes_the_page_away(run: RunFolder) -> None:
    main(["browse", str(run.path)])
    again = RunFolder(run.path)
    again.start(RunRecord(Recipe(), {}, False).started(torch.device("cpu"), 1))
    assert not run.browse_page.exists()
