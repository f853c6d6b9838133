"""The demo's renderer and its page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retinanet_fast.cli import main
from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.data.rendered import RenderOptions, outline, render_data_set, render_image
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.prediction.draw import Label, colour, draw_boxes
from retinanet_fast.engine.reporting.report import _timings
from retinanet_fast.engine.reporting.timing import OpTiming, table


def test_the_rendered_set_is_a_sound_data_set(tmp_path: Path) -> None:
    render_data_set(tmp_path, RenderOptions(train=30, val=4, size=96))
    location = locate(tmp_path, "train")
    assert location is not None
    split = read_split(location, Problems(False))
    assert len(split.images) == 30
    boxes = list(split.boxes)
    assert {box.category_id for box in boxes} == {1, 3, 7}
    extents = [max(box.width, box.height) for box in boxes]
    assert min(extents) < 16
    assert max(extents) > 40
    val = locate(tmp_path, "val")
    assert val is not None
    assert len(read_split(val, Problems(False)).images) == 4


def test_the_same_seed_gives_the_same_pictures() -> None:
    options = RenderOptions(size=64)

    def pixels(seed: int) -> bytes:
        return render_image(np.random.default_rng(seed), options)[0].tobytes()

    assert pixels(3) == pixels(3)
    assert pixels(3) != pixels(4)


@pytest.mark.parametrize("category", [0, 1, 2])
def test_an_object_lies_inside_the_picture(category: int) -> None:
    for seed in range(20):
        generator = np.random.default_rng(seed)
        mask = np.asarray(outline(generator, category, 100, 40))
        assert not mask[[0, -1]].any()
        assert not mask[:, [0, -1]].any()
        rows, columns = mask.nonzero()
        # The longer side is the extent, up to the polygon's rounding to whole pixels.
        assert max(np.ptp(rows), np.ptp(columns)) == pytest.approx(40, abs=2)


def test_a_box_is_drawn_in_its_colour_where_it_is() -> None:
    picture = Image.new("RGB", (100, 80))
    drawn = draw_boxes(picture, [Label((20, 30, 60, 70), "ball 0.9", 1)], scale=2)
    assert drawn.size == (200, 160)
    assert drawn.getpixel((40, 100)) == colour(1)
    assert drawn.getpixel((120, 100)) == colour(1)
    assert drawn.getpixel((80, 100)) == (0, 0, 0)
    assert picture.getbbox() is None  # the picture itself is untouched


def test_a_ratio_says_against_what_and_stays_believable() -> None:
    rows = [OpTiming("nms", "2,000 boxes", 1e-4, 0.1743), OpTiming("box_iou", "20,000 x 50", 1e-3, 0.0042)]
    for text in (table(rows), re.sub("×", "x", _timings(rows))):
        assert "plain PyTorch" in text
        assert "4.2x" in text
        assert "1743" not in text
        assert re.search("(>|&gt;)100x", text)


def test_the_demo_leaves_a_page_that_stands_alone(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools", reason="the demo evaluates, which needs pycocotools")
    out = tmp_path / "demo"
    words = [
        "demo",
        "--out",
        str(out),
        "--train-count",
        "6",
        "--val-count",
        "3",
        "--epochs",
        "1",
        "--batch-size",
        "3",
    ]
    words += ["--image-size", "64", "--fpn-channels", "32", "--device", "cpu"]
    assert main(words) == 0
    page = (out / "report.html").read_text()
    assert "$" not in re.sub(r"base64,[^\"]*", "", page)  # every place was filled
    for source in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert source.startswith("data:image/")
    assert page.count("data:image/") == 3 + 2 + 2  # of each held-out image, two plots, curves and confusion
    for op in ("sigmoid_focal_loss", "nms", "match_anchors", "retinanet_loss", "retinanet_detect"):
        assert f"<code>{op}</code>" in page
    record = json.loads((out / "metrics.jsonl").read_text())
    assert f"{record['AP50']:.3f}" in page
