"""The benchmark of an evaluation, on a small set: that it runs and compares. Its bars are for a quiet machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pycocotools", reason="the benchmark compares with pycocotools")
pytest.importorskip("faster_coco_eval", reason="the benchmark measures faster-coco-eval")
evaluation_scale = pytest.importorskip("benchmarks.evaluation_scale", reason="needs the source tree")


def test_the_set_is_the_same_each_time_and_lies_in_its_images() -> None:
    (split, results), (again, results_again) = evaluation_scale.drawn(50, 5), evaluation_scale.drawn(50, 5)
    assert np.array_equal(split.boxes.xywh, again.boxes.xywh)
    assert np.array_equal(results.score, results_again.score)
    assert (split.boxes.xywh[:, :2] >= 0).all()
    assert (split.boxes.xywh[:, :2] + split.boxes.xywh[:, 2:] <= evaluation_scale.SIDE).all()
    assert (len(split.boxes), len(results)) == (350, 4400)


def test_the_benchmark_runs(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    evaluation_scale.main(["--images", "30", "--categories", "4", "--out", str(file)])
    content = json.loads(file.read_text())
    numbers = {number["name"]: number for number in content["numbers"]}
    assert numbers["all of it"]["about"].startswith("2,640 detections")
    assert numbers["the twelve numbers' difference"]["verdict"] == "pass"
    assert sum(number["bar"] != "" for number in numbers.values()) == 3
    assert content["environment"]["faster-coco-eval"]
