"""The benchmark on data of COCO's size: its data set is COCO's in form and numbers. No test here judges a time."""

from __future__ import annotations

import dataclasses
import filecmp
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.data_scale import child, cli, draft, generate, loader, memory, order, pss, startup
from benchmarks.data_scale.sizes import SCALES
from benchmarks.numbers import Number, missed
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.recipe import Recipe

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


def test_smaller_pictures_have_as_many_boxes(tmp_path: Path) -> None:
    scale = dataclasses.replace(TINY, smaller=8)
    folder = generate.generated(tmp_path / "small", scale)
    location = locate(folder, "train")
    assert location is not None
    split = read_split(location, Problems(skip=False))
    assert split.count_boxes() == TINY.splits[0].boxes
    assert max(image.width for image in split.images) == 80


# --- what is measured with


def test_a_number_is_judged_by_its_limit() -> None:
    numbers = [
        Number("a", 19.0, "s", limit=20.0),
        Number("b", 21.0, "s", limit=20.0),
        Number("c", 1.3, "x", limit=1.2, at_least=True),
        Number("d", 1.1, "x", limit=1.2, at_least=True),
        Number("e", 0.049, "%"),
    ]
    assert [number.verdict for number in numbers] == ["pass", "miss", "pass", "miss", ""]
    assert [number.name for number in missed(numbers)] == ["b", "d"]
    assert numbers[2].as_dict()["bar"] == ">= 1.2x"
    assert "4.9%" in numbers[4].line()


MEGABYTES = 64


def _hold(array: np.ndarray, write: bool, ready: Any, done: Any) -> None:
    if write:
        array += 1
    ready.set()
    done.wait()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").is_file(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(("write", "copies"), [(False, 0), (True, 1)])
def test_pages_that_processes_share_count_once(write: bool, copies: int) -> None:
    """A forked child that only has an array adds none of it, one that writes to it adds all of it."""
    array = np.ones(MEGABYTES * 10**6, dtype=np.uint8)
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    before = pss.pss(pss.process_set())["Pss"]
    process = fork.Process(target=_hold, args=(array, write, ready, done))
    process.start()
    try:
        ready.wait()
        pids = pss.process_set()
        assert process.pid in pids
        added = pss.pss(pids)["Pss"] - before
    finally:
        done.set()
        process.join()
    # A fork of this interpreter writes to a part of its own objects: below half of the array's size.
    assert MEGABYTES * copies <= added + 1 < MEGABYTES * (copies + 0.5)


def test_a_failing_childs_last_lines_are_the_error() -> None:
    with pytest.raises(child.ChildError, match="No module named"):
        list(child.lines_of(["benchmarks.no_such_module"]))


def test_without_rights_the_json_alone_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError

    file = tmp_path / "a.json"
    file.write_text("[]")
    monkeypatch.setattr(child.os, "sync", refused)
    assert "the json" in child.drop_caches([file])
    assert file.read_text() == "[]"


# --- the parts


def test_the_first_step_ends_the_program(data: Path, tmp_path: Path) -> None:
    found = startup.first_step(data, tmp_path)
    assert 0 < found["data read"] < found["first step"]
    assert found["peak"] > 100  # MB: torch alone takes more


def test_the_loader_alone(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = {"min_size": [64], "max_size": 107, "batch_size": 8}
    monkeypatch.setattr(loader, "LOADED_IMAGES", 80)
    assert loader.loading_rate(data, {**recipe, "workers": 0}) > 0
    # Packed as for a GPU, which need not be here.
    assert loader.loading_rate(data, {**recipe, "workers": 1}, device="cuda") > 0


def test_draft_decoding_loses_nothing_on_a_flat_picture(tmp_path: Path) -> None:
    file = tmp_path / "flat.jpg"
    Image.new("RGB", (640, 480), (100, 100, 100)).save(file)
    recipe = Recipe(min_size=[160], max_size=267)
    # The antialiasing's weights are rounded: their sum is 1 to seven digits, of 100 levels.
    assert draft.difference(file, recipe) == pytest.approx((0, 0, 0), abs=1e-4)


def test_draft_decoding_is_nearer_to_an_antialiased_picture(tmp_path: Path) -> None:
    """Of stripes that are finer than the model's input, decoding whole keeps what aliases."""
    stripes = np.zeros((480, 640, 3), dtype=np.uint8)
    stripes[:, ::3] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.jpg", quality=95)
    between, drafted, whole = draft.difference(tmp_path / "stripes.jpg", Recipe(min_size=[160], max_size=267))
    assert between > 0
    assert drafted < whole


def test_every_number_of_a_quick_run_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(order, "IMAGES", 320)
    monkeypatch.setattr(draft, "LARGE", ((640, 480),))
    monkeypatch.setattr(memory, "WORKERS", 2)
    monkeypatch.setattr(memory, "TINY_STEPS", 4)
    out = tmp_path / "numbers.json"
    words = ["--scale", "tiny", "--parts", "memory,order,draft", "--data", str(tmp_path), "--out", str(out)]
    assert cli.main(words) == 0
    numbers = {number["name"]: number for number in json.loads(out.read_text())["numbers"]}
    assert numbers["memory/annotations"]["bar"] == "<= 200 MB"
    assert numbers["memory/annotations"]["verdict"] in {"pass", "miss"}
    waste = [numbers[f"order/padding, aspect_groups {groups}"]["value"] for groups in (1, 16)]
    assert waste[0] > waste[1] > 0
    assert numbers["draft/640x480"]["value"] > 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in numbers)


def test_an_unknown_part_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--parts", "order,others"]) == 2
    message = capsys.readouterr().err
    assert "expected some of startup, memory, loader, order, draft, got 'others'" in message
    assert message.count("\n") == 1
