"""The program from end to end on a tiny rendered data set, its errors and its exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import data_sets
import pytest
import torch
from children import child_environment
from PIL import Image

from retinanet_fast.cli import main, predicting
from retinanet_fast.engine import checkpoint as checkpoints
from retinanet_fast.engine.data.rendered import RenderOptions, render_data_set

# A narrow model on 64-pixel images: a step takes a fraction of a second.
SMALL = [
    "--recipe",
    "demo",
    "--image-size",
    "64",
    "--fpn-channels",
    "32",
    "--batch-size",
    "2",
    "--device",
    "cpu",
    # Other numbers of threads round otherwise, and how many are chosen depends on what else runs.
    "--threads",
    "1",
]
SMALL += ["--anchor-sizes", "8", "16", "32", "64", "128", "--eval-every", "1", "--score-thresh", "0.01"]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pycocotools", reason="training evaluates, which needs pycocotools")
    folder = tmp_path_factory.mktemp("data")
    render_data_set(folder, RenderOptions(train=6, val=3, size=64, seed=1))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, rendered: Path) -> Path:
    out = tmp_path_factory.mktemp("run")
    assert main(["train", "--data", str(rendered), "--out", str(out), *SMALL, "--epochs", "2"]) == 0
    return out


@pytest.fixture
def data(tmp_path: Path, rendered: Path) -> Path:
    """A copy of the data set to spoil."""
    return Path(shutil.copytree(rendered, tmp_path / "data"))


def run(*words: object) -> int:
    return main([str(word) for word in words])


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on the standard error stream."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_run_leaves_checkpoint_metrics_plots_and_recipe(trained: Path) -> None:
    assert {"last.pt", "metrics.jsonl", "loss.png", "ap.png", "recipe.toml"} <= {
        p.name for p in trained.iterdir()
    }
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert all(record["images"] == 6 and record["loss"] > 0 and "AP50" in record for record in records)
    for name in ("loss.png", "ap.png"):
        with Image.open(trained / name) as picture:
            picture.load()
            assert min(picture.size) > 300
    saved = checkpoints.load(trained)
    assert [tuple(category) for category in saved.categories] == [(1, "ball"), (3, "box"), (7, "star")]
    assert saved.epoch == 2


def test_eval_needs_only_the_run(trained: Path, rendered: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "detections.json"
    assert (
        run("eval", "--checkpoint", trained, "--data", rendered, "--out", out, "--compare", "--device", "cpu")
        == 0
    )
    text = capsys.readouterr().out
    assert text.count("Average Precision") == 6
    assert text.count("Average Recall") == 6
    assert "COCO test-dev" in text
    results = json.loads(out.read_text())
    assert {result["category_id"] for result in results} <= {1, 3, 7}
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    shown = next(float(line.split()[-2]) for line in text.splitlines() if line.endswith("  AP"))
    assert shown == pytest.approx(last["AP"], abs=5e-4)  # three digits are printed
    # The same file, evaluated by itself, gives the same table.
    assert run("eval", "--results", out, "--data", rendered) == 0
    twelve = [line for line in text.splitlines() if line.startswith("Average")]
    assert capsys.readouterr().out.splitlines()[:12] == twelve
    # With a folder for it, a page with the images too.
    words = ["--data", rendered, "--out", tmp_path / "page", "--evaluator", "pycocotools", "--device", "cpu"]
    assert run("eval", "--checkpoint", trained, *words) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Average")] == twelve
    assert json.loads((tmp_path / "page" / "detections.json").read_text()) == results
    page = (tmp_path / "page" / "report.html").read_text()
    assert "By pycocotools." in page
    assert page.count("data:image/jpeg") == 3


def test_predict_writes_pictures_and_a_json(trained: Path, rendered: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pictures = rendered / "images" / "val"
    words = ["predict", "--checkpoint", trained, pictures, "--out", out, "--score", "0.01", "--device", "cpu"]
    assert run(*words) == 0
    names = sorted(file.name for file in pictures.iterdir())
    written = {"detections.json", "detections.jsonl", "predict.json"}
    assert {file.name for file in out.iterdir() if file.name != ".lock"} == {*names, *written}
    lines = [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == names
    results = json.loads((out / "detections.json").read_text())
    assert results, "a model that is hardly trained scores some box above 0.01"
    for result in results:
        assert result["image_id"] == int(Path(result["file_name"]).stem)
        x, y, width, height = result["bbox"]
        assert 0 <= x <= x + width <= 64.001
        assert 0 <= y <= y + height <= 64.001
    drawn = {result["file_name"] for result in results}
    for name in drawn:
        assert (out / name).read_bytes() != (pictures / name).read_bytes()


def test_a_stopped_prediction_is_resumed(trained: Path, rendered: Path, tmp_path: Path) -> None:
    out, names = tmp_path / "out", tmp_path / "names.txt"
    files = sorted(map(str, (rendered / "images" / "val").iterdir()))
    names.write_text("\n".join(files * 200))
    words = ["predict", "--checkpoint", trained, f"@{names}", "--out", out, "--no-draw", "--device", "cpu"]
    words += ["--threads", 1, "--batch-size", 1]
    command = [sys.executable, "-m", "retinanet_fast", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        lines = out / "detections.jsonl"
        deadline = time.monotonic() + 120
        while not (lines.exists() and lines.stat().st_size > 0):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.splitlines()[-1].endswith("stopped by SIGTERM: what is written is whole; --resume goes on")
    assert 0 < len(lines.read_text().splitlines()) < 600
    assert not (out / "detections.json").exists()
    assert run(*words, "--resume") == 0
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["file_name"] for line in found] == files * 200
    assert [line["image_id"] for line in found] == list(range(1, 601))  # the numbers of the names come again


def test_predict_finds_what_eval_finds(trained: Path, rendered: Path, tmp_path: Path) -> None:
    common = ["--checkpoint", trained, "--device", "cpu", "--batch-size", 1]  # so that padding is the same
    assert run("eval", *common, "--data", rendered, "--out", tmp_path / "eval.json") == 0
    pictures = rendered / "images" / "val"
    assert run("predict", *common, pictures, "--out", tmp_path / "out") == 0
    expected = json.loads((tmp_path / "eval.json").read_text())
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        # What predict rounds to.
        assert one["bbox"] == pytest.approx(other["bbox"], abs=6e-5)
        assert one["score"] == pytest.approx(other["score"], abs=6e-8)


def test_many_pictures_are_drawn_only_where_that_is_asked_for(
    trained: Path, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(predicting, "MANY", 3)
    words = ["predict", "--checkpoint", trained, rendered / "images" / "val", "--device", "cpu"]
    for flags, drawn in ([], 0), (["--draw"], 3), (["--no-draw"], 0):
        out = tmp_path / f"out{len(flags)}{drawn}"
        assert run(*words, "--out", out, *flags) == 0
        assert len(list(out.glob("*.jpg"))) == drawn
        said = capsys.readouterr().out
        assert said.count("not drawn, since they are 3 or more: --draw draws them") == (not flags)


def test_predict_does_not_write_over_its_pictures(trained: Path, data: Path, capsys: Any) -> None:
    folder = data / "images" / "val"
    assert run("predict", "--checkpoint", trained, folder, "--out", folder, "--device", "cpu") == 2
    assert "would be written over" in one_error(capsys)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_is_resumed_from_its_folder_alone(
    trained: Path, rendered: Path, tmp_path: Path, number: int, code: int
) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", rendered, "--out", out, *SMALL, "--epochs", "2"]
    command = [sys.executable, "-m", "retinanet_fast", *map(str, words)]
    pipe, imports = subprocess.PIPE, child_environment()  # of the package that is tested
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=imports) as process:
        assert process.stdout is not None
        assert any("epoch 1/2" in line for line in process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopped by" in errors.splitlines()[-1]
    assert "--resume" in errors.splitlines()[-1]
    assert run("train", "--resume", "--out", out) == 0
    expected, found = checkpoints.load(trained), checkpoints.load(out)
    assert found.epoch == 2
    for name, tensor in expected.model.items():
        assert torch.equal(found.model[name], tensor), name
    assert [r["loss"] for r in found.history] == [r["loss"] for r in expected.history]
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_ctrl_c_ends_the_program_cleanly(rendered: Path, tmp_path: Path) -> None:
    words = ["train", "--data", str(rendered), "--out", str(tmp_path / "run"), *SMALL, "--epochs", "1000"]
    words += ["--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "retinanet_fast", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=child_environment(),  # of the package that is tested
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.pt").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group gets it
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "stopped by Ctrl-C" in errors
    progress = checkpoints.load(tmp_path / "run").progress
    assert progress is not None
    assert progress.step >= 3
    assert [file.name for file in (tmp_path / "run").iterdir() if file.suffix == ".part"] == []


def spoil_json(folder: Path, split: str, **values: Any) -> Path:
    path = folder / "annotations" / f"instances_{split}.json"
    document = json.loads(path.read_text())
    document["annotations"][1].update(values)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"image_id": 999}, "annotations[1] (id 2): image_id 999 is not among the images"),
        ({"category_id": 2}, "annotations[1] (id 2): category_id 2 is not among the categories"),
        ({"bbox": [1, 1, 5, 0]}, "annotations[1] (id 2): bbox [1, 1, 5, 0] has no area"),
        ({"bbox": [70, 1, 5, 5]}, "annotations[1] (id 2): bbox [70, 1, 5, 5] is outside its image"),
    ],
)
def test_a_bad_annotation_ends_in_one_line_or_is_skipped(
    data: Path, tmp_path: Path, capsys: Any, values: dict[str, Any], expected: str
) -> None:
    path = spoil_json(data, "train", **values)
    words = ["train", "--data", data, "--out", tmp_path / "run", *SMALL, "--epochs", 1]
    assert run(*words) == 2
    line = one_error(capsys)
    assert f"{path}: {expected}" in line
    assert run(*words, "--skip-bad") == 0
    assert "left out 1 bad entry" in capsys.readouterr().err


def test_a_truncated_image_ends_in_one_line_or_is_skipped(data: Path, tmp_path: Path, capsys: Any) -> None:
    file = data / "images" / "train" / "000003.jpg"
    data_sets.truncate(file)
    words = ["train", "--data", data, "--out", tmp_path / "run", *SMALL, "--epochs", 1]
    assert run(*words) == 2
    assert f"{file}: not a readable image" in one_error(capsys)
    assert run(*words, "--skip-bad", "--workers", 1) == 0
    assert "left out 1 bad entry" in capsys.readouterr().err
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert (record["images"], record["skipped"]) == (6, 1)  # another one in its place


def test_eval_and_predict_leave_bad_images_out_too(
    trained: Path, data: Path, tmp_path: Path, capsys: Any
) -> None:
    file = data / "images" / "val" / "000002.jpg"
    data_sets.truncate(file)
    for words in (
        ["eval", "--checkpoint", trained, "--data", data, "--device", "cpu"],
        [
            "predict",
            "--checkpoint",
            trained,
            data / "images" / "val",
            "--out",
            tmp_path / "out",
            "--device",
            "cpu",
        ],
    ):
        assert run(*words) == 2
        assert f"{file}: not a readable image" in one_error(capsys)
        assert run(*words, "--skip-bad") == 0
        assert "left out 1 bad entry" in capsys.readouterr().err
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 2


def test_a_checkpoint_of_another_model(trained: Path, rendered: Path, tmp_path: Path, capsys: Any) -> None:
    other = checkpoints.load(trained)
    other.recipe = other.recipe.replace(fpn_channels=64)
    other.save(tmp_path / "other.pt")
    assert run("eval", "--checkpoint", tmp_path / "other.pt", "--data", rendered, "--device", "cpu") == 2
    assert "other.pt: weights of another model" in one_error(capsys)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "plain.pt")
    assert run("eval", "--checkpoint", tmp_path / "plain.pt", "--data", rendered, "--device", "cpu") == 2
    assert "plain.pt: not a checkpoint of this program" in one_error(capsys)
    words = [
        "train",
        "--resume",
        "--data",
        rendered,
        "--out",
        trained,
        *SMALL,
        "--arch",
        "resnet34",
        "--epochs",
        3,
    ]
    assert run(*words) == 2
    assert "last.pt: weights of another model" in one_error(capsys)


def test_a_data_set_with_other_categories(trained: Path, data: Path, capsys: Any) -> None:
    path = data / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace('"star"', '"comet"'))
    assert run("eval", "--checkpoint", trained, "--data", data, "--device", "cpu") == 2
    assert "category 'comet' (id 7) is not one that the model was trained on (ball, box, star)" in one_error(
        capsys
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--recipe", "demo", "--out", "x"], "expected --data DIR, or --train-json"),
        (["train", "--recipe", "demo", "--data", "gone", "--out", "x"], "gone: no such folder"),
        (["train", "--recipe", "gone", "--data", ".", "--out", "x"], "gone: no such recipe file"),
        (
            ["train", "--recipe", "demo", "--data", ".", "--out", "x", "--epochs", "0"],
            "epochs: expected a number",
        ),
        (["train", "--resume", "--out", "x"], "x: no run to resume; --data DIR"),
        (
            ["train", "--recipe", "demo", "--data", ".", "--out", "x"],
            "no split 'train': looked for annotations/instances_train.json",
        ),
        (
            ["train", "--recipe", "demo", "--train-json", "t.json", "--out", "x"],
            "expected --train-images with it",
        ),
        (["eval", "--data", "."], "expected --checkpoint RUN, or --results FILE"),
        (["eval", "--checkpoint", "gone.pt", "--data", "."], "instances_val.json"),
        (["predict", "--checkpoint", "gone.pt", "."], "no pictures in this folder"),
        (["predict", "--checkpoint", "gone.pt", "a.jpg"], "gone.pt: no such checkpoint"),
        (["train", "--data", ".", "--out", "x", "--device", "tpu9"], "--device tpu9: not usable here"),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(
    words: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    if "gone.pt" in words and "." not in words:
        Image.new("RGB", (8, 8)).save("a.jpg")
    assert main(words) == 2
    assert expected in one_error(capsys)


def test_a_run_is_not_replaced_by_accident(trained: Path, rendered: Path, capsys: Any) -> None:
    assert run("train", "--data", rendered, "--out", trained, *SMALL) == 2
    assert "holds a run already" in one_error(capsys)


def test_splits_can_be_named_one_by_one(rendered: Path, tmp_path: Path) -> None:
    words: list[object] = ["train", "--out", tmp_path / "run", *SMALL, "--epochs", 1]
    for split in ("train", "val"):
        words += [f"--{split}-json", rendered / "annotations" / f"instances_{split}.json"]
        words += [f"--{split}-images", rendered / "images"]
    assert run(*words) == 0
    assert "AP" in json.loads((tmp_path / "run" / "metrics.jsonl").read_text())


def test_start_from_a_checkpoint(trained: Path, rendered: Path, tmp_path: Path, capsys: Any) -> None:
    words = [
        "train",
        "--data",
        rendered,
        "--out",
        tmp_path / "run",
        *SMALL,
        "--epochs",
        1,
        "--init",
        trained / "last.pt",
    ]
    assert run(*words) == 0
    assert f"start from {trained / 'last.pt'}: " in capsys.readouterr().out
    state = checkpoints.load(tmp_path / "run")
    assert not any(name.endswith("num_batches_tracked") for name in state.model)  # batch norm is frozen
    assert state.settings.frozen_eps == 1e-5
    assert run("eval", "--checkpoint", tmp_path / "run", "--data", rendered, "--device", "cpu") == 0


def test_the_module_is_the_program() -> None:
    words = [sys.executable, "-m", "retinanet_fast", "--help"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    for command in ("demo", "train", "eval", "predict", "bench", "info"):
        assert f"    {command} " in text


def test_info_tells_what_is_here(capsys: Any) -> None:
    assert run("info") == 0
    text = capsys.readouterr().out
    assert torch.__version__ in text
    assert "processor" in text


def test_an_unknown_cpu_level_is_told_in_one_line(tmp_path: Path) -> None:
    # In a process of its own: the level is chosen once, at the first op.
    words = [sys.executable, "-m", "retinanet_fast", "info"]
    environment = child_environment(RETINANET_FAST_CPU_LEVEL="486")
    done = subprocess.run(words, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("retinanet-fast: RETINANET_FAST_CPU_LEVEL: expected one of ")
    assert line.endswith("got 486")


def test_training_on_tiny_coco_learns(tmp_path: Path, capsys: Any) -> None:
    """80 categories with gaps in their ids, crowds, images without boxes: the loss falls."""
    pytest.importorskip("pycocotools", reason="training evaluates, which needs pycocotools")
    folder = data_sets.real("coco_tiny100")
    words = ["train", "--data", folder, "--out", tmp_path, *SMALL, "--epochs", 2, "--epoch-steps", 12]
    words += ["--lr", 1e-3, "--warmup-iters", 5]
    assert run(*words, "--image-size", "96", "--eval-every", 2, "--eval-images", 4) == 0
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert records[1]["loss"] < records[0]["loss"]
    assert len(checkpoints.load(tmp_path).categories) == 80
