"""The benchmark of prediction at size, in its smallest form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import prediction_scale


def test_it_measures_rate_and_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = prediction_scale.RECIPE.replace(min_size=[32], max_size=64, fpn_channels=16)
    monkeypatch.setattr(prediction_scale, "RECIPE", small)
    monkeypatch.setattr(prediction_scale, "ROUNDS", 1)
    monkeypatch.setattr(prediction_scale, "SECONDS", 0.02)
    out = tmp_path / "out.json"
    assert prediction_scale.main(["--pictures", "600", "--rate-pictures", "40", "--out", str(out)]) == 0
    numbers = {number["name"]: number for number in json.loads(out.read_text())["numbers"]}
    assert numbers["rate/prediction beside evaluation"]["bar"] == ">= 0.9x"
    assert numbers["memory/most less least"]["bar"] == "<= 50 MB"
    assert all(number["value"] > 0 for name, number in numbers.items() if name.startswith("rate/"))
    assert numbers["memory/most"]["value"] > 50  # what PyTorch alone allocates is more
