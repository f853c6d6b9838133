"""``train --dry-run``: it says what a run would take, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from retinanet_fast.cli import main
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.dry_run import Forecast, duration, evaluations

FORECAST = Forecast(
    recipe=Recipe(epochs=10, batch_size=8, eval_every=4, schedule="cosine", warmup_iters=0),
    steps_per_epoch=90,
    step_seconds=2.0,
    memory_bytes=1_500_000_000,
    evaluated_images=200,
    evaluated_per_second=5.0,
)
SMALL = [
    "--recipe",
    "demo",
    "--image-size",
    "64",
    "--fpn-channels",
    "16",
    "--batch-size",
    "2",
    "--device",
    "cpu",
]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pycocotools", reason="training evaluates, which needs pycocotools")
    folder = tmp_path_factory.mktemp("data")
    render_data_set(folder, RenderOptions(train=6, val=3, size=64, seed=1))
    return folder


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (10, 4), (12, 4), (3, 5)])
def test_evaluations_are_those_of_the_loop(epochs: int, every: int) -> None:
    counted = sum(epoch % every == 0 or epoch == epochs for epoch in range(1, epochs + 1))
    assert evaluations(Recipe(epochs=epochs, eval_every=every)) == counted


def test_the_forecast_adds_up() -> None:
    assert FORECAST.training_seconds == 10 * 90 * 2.0
    assert FORECAST.evaluation_seconds == 3 * 200 / 5.0
    assert FORECAST.lines()[-3:] == [
        "a step takes 2 s: 4.0 images/s, 1.50 GB at most",
        "3 evaluations of 200 images at 5.0 images/s",
        "the run would take about 32 min: 30 min of training, 2 min of evaluation",
    ]
    alone = replace(FORECAST, evaluated_per_second=None, memory_bytes=None).lines()
    assert alone[-2:] == [
        "a step takes 2 s: 4.0 images/s",
        "the run would take about 30 min: all of it training",
    ]


def test_durations() -> None:
    seconds = (0.4, 89, 90, 89 * 60, 90 * 60, 26 * 3600)
    assert [duration(s) for s in seconds] == ["0 s", "89 s", "2 min", "89 min", "1 h 30 min", "26 h 0 min"]


def test_it_says_what_a_run_would_take_and_writes_nothing(
    rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(rendered.rglob("*"))
    assert main(["train", "--dry-run", "--data", str(rendered), *SMALL, "--epochs", "2"]) == 0
    text = capsys.readouterr().out
    assert "2 epochs of 3 steps of 2 images: 6 steps" in text
    assert "1 evaluation of 3 images at" in text
    assert "the run would take about" in text
    assert sorted(rendered.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_it_leaves_a_run_in_the_folder_alone(rendered: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("a run's")
    words = ["train", "--dry-run", "--data", str(rendered), "--out", str(tmp_path), *SMALL]
    assert main(words) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_text() == "a run's"


@pytest.mark.parametrize(
    ("words", "code", "error"),
    [
        (["--dry-run", "--lr", "1e30", "--warmup-iters", "0"], 1, "step 2: the loss is not finite: {'class"),
        (["--dry-run", "--init", "no.pth"], 2, "no.pth"),
        ([], 2, "train: expected --out RUN, the folder to write, or --dry-run"),
    ],
)
def test_what_would_fail_is_told(
    words: list[str], code: int, error: str, rendered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(rendered), *SMALL, "--epochs", "2", *words]) == code
    assert error in capsys.readouterr().err
