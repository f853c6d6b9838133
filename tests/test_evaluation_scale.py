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


def test_the_benchmark_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out.json"
    words = ["evaluation_scale", "--images", "30", "--categories", "4", "--json", str(file)]
    monkeypatch.setattr("sys.argv", words)
    assert evaluation_scale.main() == 0
    content = json.loads(file.read_text())
    result = content["result"]
    assert result["detections"] == 2640
    # The same doubles but for 2**-52 in a denominator.
    assert result["largest_difference"] < 1e-12
    assert result["times_faster"] > 0
    assert len(content["bars"]) == 2
    assert content["environment"]["faster-coco-eval"]
    assert capsys.readouterr().out.count("bar: ") == 2
