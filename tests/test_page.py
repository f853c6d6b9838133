"""Plots, sample detections and the page of a run."""

from __future__ import annotations

from pathlib import Path

import run_stand_in
from PIL import Image

from retinanet_fast.engine.prediction.draw import colour
from retinanet_fast.engine.reporting.page import Page
from retinanet_fast.engine.reporting.pictures import GAP, WIDTH, compare, grid
from retinanet_fast.engine.run_folder import RunFolder


def test_the_page_is_written_anew_after_each_evaluation(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    run = run_stand_in.stand_in(tmp_path, epochs=4)
    hook = Page(folder)
    run_stand_in.go(run, [hook], 4)
    assert folder.loss_plot.exists()
    assert not folder.page.exists()  # the first epoch is not evaluated
    run_stand_in.go(run, [hook], 8)
    assert "run: epoch 2 of 4" in folder.page.read_text()
    run_stand_in.go(run, [hook], 12)
    assert "run: epoch 2 of 4" in folder.page.read_text()
    run_stand_in.go(run, [hook], 16)
    page = folder.page.read_text()
    assert "run: epoch 4 of 4" in page
    assert f"{run.history[-1]['AP50']:.3f}" in page
    assert "plain PyTorch" not in page  # the demo alone times the ops
    assert page.count("data:image/") == 2 + 2 + 2  # two held-out images, two plots, curves and confusion
    assert "AP50 lost" in page
    assert folder.ap_plot.exists()
    assert sorted(path.name for path in folder.sample(1).parent.iterdir()) == [
        "epoch_002.jpg",
        "epoch_004.jpg",
    ]


def test_truth_is_on_the_left_and_detections_on_the_right(tmp_path: Path) -> None:
    run = run_stand_in.stand_in(tmp_path)
    run_stand_in.record(run, 2)
    compared = compare(run.val_split, run.detected)
    assert [one.image_id for one in compared] == [7, 9]
    picture = compared[0].picture
    halves = (0, WIDTH), (WIDTH + GAP, picture.width)
    truth, found = (
        {shade for _, shade in picture.crop((left, 0, right, picture.height)).getcolors(1 << 20)}
        for left, right in halves
    )
    # The truth has a cat and a dog, the detections have the dog alone.
    assert {colour(0), colour(1)} <= truth
    assert colour(1) in found
    assert colour(0) not in found


def test_an_image_that_was_not_read_is_left_out(tmp_path: Path) -> None:
    run = run_stand_in.stand_in(tmp_path)
    run_stand_in.record(run, 2)
    run.detected.image_ids.remove(7)
    (tmp_path / "images" / "a.png").unlink()
    assert [one.image_id for one in compare(run.val_split, run.detected)] == [9]


def test_a_grid_of_pictures_of_unlike_heights() -> None:
    pictures = [Image.new("RGB", (50, height), "black") for height in (30, 40, 20, 10)]
    sheet = grid(pictures)
    gap = 3 * GAP
    assert sheet.size == (3 * 50 + 2 * gap, 40 + gap + 10)
    assert sheet.getpixel((0, 40 + gap)) == (0, 0, 0)
    assert sheet.getpixel((0, 35)) == (255, 255, 255)
    assert grid(pictures[:1]).size == (50, 30)
