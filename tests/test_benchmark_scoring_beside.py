"""The benchmark of training beside scoring, in its smallest form: what it says is well-formed, not how fast it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_run import render

from benchmarks import scoring_beside
from retinanet_fast.engine.training import score_process


def test_the_generated_evaluation_has_its_size(tmp_path: Path) -> None:
    pictures = render(tmp_path) / "images" / "val"
    split, found = scoring_beside.evaluation(pictures, images=30, categories=4, detections=500)
    assert (len(split.images), len(split.boxes), len(found.results)) == (30, 210, 500)
    assert all(image.path.is_file() for image in split.images)
    assert np.isin(found.results.image_id, split.images.ids).all()
    assert set(found.results.category_id.tolist()) == {1, 2, 3, 4}


def test_the_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_process, "NICE", 0)  # whatever else the machine has to do
    out = tmp_path / "figures.json"
    words = ["--images", "20", "--categories", "3", "--detections", "300", "--size", "64", "--window", "0.1"]
    code = scoring_beside.main(["--out", str(out), *words])
    result = json.loads(out.read_text())
    numbers = {number["name"]: number for number in result["numbers"]}
    lost = numbers.pop("training lost")
    assert code == 0
    assert lost["verdict"] == ("pass" if lost["value"] <= 0.05 else "miss")
    assert min(number["value"] for number in numbers.values()) > 0
    assert "pairs of windows" in capsys.readouterr().out
