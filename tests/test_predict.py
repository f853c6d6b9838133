"""``predict`` as a function: batches, lines, COCO's results, drawings, and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prediction_process import CATEGORIES, found_on
from tiny_run import tiny_model, tiny_recipe

from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.split import Boxes, Images, Split
from retinanet_fast.engine.errors import InputError, Problems, Stopped, TrainingError
from retinanet_fast.engine.evaluation.results import read_results
from retinanet_fast.engine.prediction import drawing
from retinanet_fast.engine.prediction.batches import BATCHES, Windows, picture_batches
from retinanet_fast.engine.prediction.draw import Label, colour
from retinanet_fast.engine.prediction.predict import PredictOptions, predict
from retinanet_fast.engine.prediction.reading import Reader
from retinanet_fast.engine.prediction.sources import list_pictures

CPU = torch.device("cpu")
EXIF_ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    """Other numbers of threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def save(path: Path, size: tuple[int, int] = (64, 48), seed: int = 0, **options: Any) -> Path:
    """A picture of noise, of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def lines_in(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]


def test_windows_hold_every_picture_once() -> None:
    for count in (1, 15, 16, 17, 100):
        windows = Windows(count, batch_size=2)
        assert [index for window in range(len(windows)) for index in windows.of(window)] == list(range(count))
        assert windows.size == 2 * BATCHES


@pytest.mark.parametrize("workers", [0, 2, 3])  # none, and as many as windows, and more
def test_pictures_of_one_shape_come_together(tmp_path: Path, workers: int) -> None:
    for index in range(40):
        save(tmp_path / f"{index:02d}.png", (64, 48) if index % 2 else (48, 64))
    bad = [35, 37]  # of one shape: an even number of each is left
    for index in bad:
        (tmp_path / f"{index}.png").write_bytes(b"no picture")
    pictures, windows = list_pictures([str(tmp_path)]), Windows(40, batch_size=2)
    wanted = np.array([0, 2])
    batches = list(picture_batches(pictures, windows, wanted, tiny_recipe(workers=workers), CPU))
    found = sorted(index for batch in batches for index in batch.indices)
    assert found == [index for index in [*range(16), *range(32, 40)] if index not in bad]
    assert {len(batch.decoded) for batch in batches} == {2}
    assert sorted(index for batch in batches for index in batch.faults) == bad
    assert all(len({decoded.image.shape for decoded in batch.decoded}) == 1 for batch in batches)


def test_a_large_jpeg_is_decoded_smaller_and_its_boxes_are_of_the_whole(tmp_path: Path) -> None:
    save(tmp_path / "in" / "large.jpg", (1024, 768))
    pictures = list_pictures([str(tmp_path / "in")])
    (batch,) = picture_batches(pictures, Windows(1, 1), np.array([0]), tiny_recipe(), CPU)
    assert tuple(batch.decoded[0].image.shape) == (3, 96, 128)  # 1/8: not less than the model's 48 x 64
    assert batch.decoded[0][1:] == ((1024, 768), 8)
    found_on([str(tmp_path / "in")], tmp_path / "out")
    (line,) = lines_in(tmp_path / "out")
    assert (line["width"], line["height"]) == (1024, 768)
    corners = np.array([found["bbox"] for found in line["detections"]])
    corners[:, 2:] += corners[:, :2]
    assert corners.max() > 128
    assert (corners[:, [0, 2]] <= 1024.001).all()
    assert (corners[:, [1, 3]] <= 768.001).all()
    with Image.open(tmp_path / "out" / "large.jpg") as drawn:
        assert drawn.size == (1024, 768)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_too_large_to_be_decoded_whole_is_drawn_as_the_model_saw_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(drawing, "MOST_PIXELS", 1024 * 768 - 1)
    (picture,) = list_pictures([str(save(tmp_path / "large.jpg", (1024, 768)))])
    decoded = Reader(Decoding.of(tiny_recipe())).decode(picture)
    with drawing.drawer(workers, Decoding()) as drawer:
        future = drawer.draw(picture, decoded, [Label((400, 200, 800, 600), "", 0)], tmp_path / "drawn.png")
        if future is not None:
            future.result()
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert drawn.size == (128, 96)
        assert drawn.getpixel((50, 40)) == colour(0)


def test_a_photo_is_turned_as_the_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    save(tmp_path / "in" / "turned.jpg", (64, 48), exif=exif)
    found_on([str(tmp_path / "in")], tmp_path / "out")
    (line,) = lines_in(tmp_path / "out")
    assert (line["width"], line["height"]) == (48, 64)
    with Image.open(tmp_path / "out" / "turned.jpg") as drawn:
        assert drawn.size == (48, 64)


def test_coco_results_are_those_of_the_lines(tmp_path: Path) -> None:
    for index in range(5):
        save(tmp_path / "in" / f"{10 + index}.png", seed=index)
    (tmp_path / "in" / "20.png").write_bytes(b"no picture")
    done = found_on([str(tmp_path / "in")], tmp_path / "out")
    assert done is not None
    assert (done.detected, done.unreadable) == (5, 1)
    lines = lines_in(tmp_path / "out")
    assert [line["image_id"] for line in lines] == [10, 11, 12, 13, 14, 20]
    assert "not a readable image" in lines[-1]["error"]
    expected = [
        {"image_id": line["image_id"], "file_name": line["file_name"], **found}
        for line in lines
        for found in line.get("detections", [])
    ]
    path = tmp_path / "out" / "detections.json"
    assert json.loads(path.read_text()) == expected
    assert len(expected) > 5  # several of most pictures
    # Other programs read it, and eval does.
    images = Images.of((id, "", 64, 48) for id in range(10, 15))
    split = Split.of(Path("a.json"), CATEGORIES, images, Boxes.of([]), np.array([], dtype=np.int64))
    assert len(read_results(path, split)) == len(expected)


def test_no_detection_is_an_empty_list(tmp_path: Path) -> None:
    model = tiny_model().eval()
    model.score_thresh = 1.0
    save(tmp_path / "in" / "a.png")
    pictures = list_pictures([str(tmp_path / "in")])
    options = PredictOptions(tmp_path / "out")
    predict(model, CATEGORIES, tiny_recipe(), pictures, options, Problems(skip=False))
    assert lines_in(tmp_path / "out")[0]["detections"] == []
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []


def test_any_name_is_a_line(tmp_path: Path) -> None:
    names = ['quote".png', "line\nend.png", "ünï.png", "back\\slash.png"]
    for name in names:
        save(tmp_path / "in" / name)
    raw = os.fsencode(tmp_path / "in") + b"/\xff.png"
    os.rename(save(tmp_path / "in" / "raw.png"), raw)
    found_on([str(tmp_path / "in")], tmp_path / "out")
    found = [line["file_name"] for line in lines_in(tmp_path / "out")]
    assert sorted(found) == sorted([*names, "\\udcff.png"])
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert {result["file_name"] for result in results} == set(found)


def test_drawings_of_one_name_are_numbered(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        save(tmp_path / folder / "same.png")
    save(tmp_path / "a" / "same-2.png")
    found_on([str(tmp_path / folder) for folder in "abc"], tmp_path / "out")
    drawn = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert drawn == {"same.png", "same-2.png", "same-3.png", "same-4.png"}


def test_drawings_by_processes_are_those_made_in_place(tmp_path: Path) -> None:
    for index in range(70):  # enough for two processes
        save(tmp_path / "in" / f"{index:02d}.png", seed=index)
    for workers in (0, 2):
        found_on([str(tmp_path / "in")], tmp_path / f"out{workers}", workers=workers)
    for path in (tmp_path / "out0").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "out2" / path.name).read_bytes()


def test_a_drawing_process_that_is_killed_is_told(tmp_path: Path) -> None:
    (picture,) = list_pictures([str(save(tmp_path / "a.png"))])
    decoded = Reader(Decoding()).decode(picture)
    others = set(multiprocessing.active_children())

    def draw_and_kill() -> None:
        with drawing.drawer(1, Decoding()) as drawer:
            for child in set(multiprocessing.active_children()) - others:
                child.kill()
            for number in range(2):
                future = drawer.draw(picture, decoded, [], tmp_path / f"drawn{number}.png")
                assert future is not None
                future.result()

    with pytest.raises(TrainingError, match="a process that draws ended"):
        draw_and_kill()


def test_an_input_is_not_written_over(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    with pytest.raises(
        InputError, match=r"a\.png: would be written over: choose another --out, or --no-draw"
    ):
        found_on([str(tmp_path)], tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.png").symlink_to(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: would be written over"):
        found_on([str(tmp_path / "links")], tmp_path)
    found_on([str(tmp_path / "links")], tmp_path, draw=False)
    assert len(lines_in(tmp_path)) == 1


def test_a_prediction_is_not_replaced_by_accident(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png")
    words, out = [str(tmp_path / "in")], tmp_path / "out"
    found_on(words, out)
    before = (out / "detections.json").read_bytes()
    with pytest.raises(InputError, match="holds a prediction already: --resume goes on with it"):
        found_on(words, out)
    done = found_on(words, out, resume=True)
    assert done is not None
    assert (done.detected, done.images_per_second) == (1, 0.0)
    assert (out / "detections.json").read_bytes() == before
    save(tmp_path / "in" / "b.png")
    with pytest.raises(InputError, match=r"predict\.json: begun with pictures 1, now it is 2"):
        found_on(words, out, resume=True)
    found_on(words, out, overwrite=True)
    assert len(lines_in(out)) == 2
    with pytest.raises(InputError, match=r"begun with batch_size 2, now it is 3"):
        found_on(words, out, resume=True, batch_size=3)
    os.rename(tmp_path / "in" / "b.png", tmp_path / "in" / "c.png")
    with pytest.raises(InputError, match=r"predict\.json: begun with other pictures: resume with"):
        found_on(words, out, resume=True)
    (out / "predict.json").unlink()
    with pytest.raises(InputError, match="cannot be resumed, --overwrite replaces it"):
        found_on(words, out, resume=True)


def test_one_program_writes_at_a_time(tmp_path: Path) -> None:
    from filelock import FileLock

    save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(InputError, match="another program is writing there"),
    ):
        found_on([str(tmp_path / "in")], tmp_path / "out")


def test_nothing_readable_is_an_error(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"gone\.png: no readable picture among the 1 given"):
        found_on([gone], tmp_path / "out")
    pictures = list_pictures([gone])
    options = PredictOptions(tmp_path / "other")
    with pytest.raises(InputError, match=r"gone\.png: no such picture \(--skip-bad"):
        predict(tiny_model(), CATEGORIES, tiny_recipe(), pictures, options, Problems(skip=False))


def test_a_stop_leaves_whole_windows(tmp_path: Path) -> None:
    for index in range(3 * 2 * BATCHES):
        save(tmp_path / "in" / f"{index:02d}.png", seed=index)
    words, out = [str(tmp_path / "in")], tmp_path / "out"
    calls = 0

    def stop() -> None:
        nonlocal calls
        calls += 1
        if calls == 2 * BATCHES:  # in the second window
            raise Stopped(signal.SIGTERM)

    model = tiny_model().eval()
    model.score_thresh, model.detections_per_img = 0.0, 5
    options = PredictOptions(out, batch_size=2, draw=False)
    with pytest.raises(Stopped):
        predict(model, CATEGORIES, tiny_recipe(), list_pictures(words), options, Problems(False), stop=stop)
    assert len(lines_in(out)) == 2 * BATCHES
    found_on(words, out, draw=False, resume=True)
    found_on(words, tmp_path / "whole", draw=False)
    assert (out / "detections.jsonl").read_bytes() == (tmp_path / "whole" / "detections.jsonl").read_bytes()
