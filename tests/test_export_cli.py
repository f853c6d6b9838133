"""``retinanet-fast export``: what it prints, and what it says where something is wrong."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_model import CLASSES, RECIPE, make_detector, pictures
from PIL import Image

from retinanet_fast.cli import main
from retinanet_fast.engine import exporting
from retinanet_fast.engine.checkpoint import LAST, Checkpoint
from retinanet_fast.engine.data.split import Category
from retinanet_fast.export import load_exported


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, with the detector of these tests."""
    folder = tmp_path_factory.mktemp("run")
    categories = [Category(number, f"class {number}") for number in range(1, CLASSES + 1)]
    Checkpoint(make_detector().state_dict(), RECIPE, categories, epoch=1).save(folder / LAST)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sizes, and a format without losses."""
    folder = tmp_path_factory.mktemp("pictures")
    for height, width in ((170, 200), (210, 180)):
        pixels = (pictures(1, height, width)[0] * 255).byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(folder / f"{height}.png")
    return sorted(folder.iterdir())


def run(*words: object) -> int:
    return main([str(word) for word in words])


def one_error(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on the standard error stream."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_a_file_is_written_and_checked(
    trained: Path, photographs: list[Path], tmp_path: Path, capsys: Any
) -> None:
    file = tmp_path / "new" / "model.pt2"
    words = ["export", trained, "--format", "torch", "--out", file, "--size", "150x190", "--batch", 3]
    assert run(*words, "--check", *photographs) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{file}: ")
    assert ", 0 that only one has" in said
    assert load_exported(file, "torch")(torch.rand(3, 3, 150, 190)).boxes.shape == (3, 300, 4)


def test_without_pictures_rendered_ones_are_used(trained: Path, tmp_path: Path, capsys: Any) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="writing and running ONNX files needs it")
    assert run("export", trained, "--format", "onnx", "--out", tmp_path / "model.onnx", "--batch", 1) == 0
    assert "boxes within" in capsys.readouterr().out


def test_a_file_that_detects_something_else_fails(
    trained: Path, photographs: list[Path], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose boxes are 0.02 pixels off."""

    def load_shifted(file: Path, format: str) -> Any:
        exported = load_exported(file, format)

        def detect(images: torch.Tensor) -> Any:
            found = exported(images)
            return dataclasses.replace(found, boxes=found.boxes + 0.02)

        return detect

    monkeypatch.setattr(exporting, "load_exported", load_shifted)
    words = ["export", trained, "--format", "torch", "--out", tmp_path / "model.pt2", "--size", "150x190"]
    (tmp_path / "model.pt2").write_text("an earlier export")
    assert run(*words, "--check", *photographs) == 1
    said = one_error(capsys)
    assert "not written, since it does not detect what the model does" in said
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]
    assert (tmp_path / "model.pt2").read_text() == "an earlier export"
    assert "boxes within 0.02 px (bound 0.01)" in said


def test_nothing_to_compare_is_told(tmp_path: Path, capsys: Any) -> None:
    blind = make_detector(RECIPE.replace(score_thresh=1.0))
    categories = [Category(number, f"class {number}") for number in range(1, CLASSES + 1)]
    state = tmp_path / "blind.pt"
    Checkpoint(blind.state_dict(), RECIPE.replace(score_thresh=1.0), categories, epoch=1).save(state)
    words = ["export", state, "--format", "torch", "--out", tmp_path / "model.pt2", "--size", "150x190"]
    assert run(*words) == 2
    assert "written but not checked: the model detects nothing on rendered pictures" in one_error(capsys)


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--size", "640"], "--size: expected HEIGHTxWIDTH, such as 480x640, or dynamic, got '640'"),
        (["--check", "absent.png"], "absent.png: no such picture"),
    ],
)
def test_wrong_words(trained: Path, tmp_path: Path, words: list[str], error: str, capsys: Any) -> None:
    assert run("export", trained, "--format", "torch", "--out", tmp_path / "model.pt2", *words) == 2
    assert one_error(capsys) == f"retinanet-fast: {error}"
    assert not (tmp_path / "model.pt2").exists()


def test_a_missing_checkpoint(tmp_path: Path, capsys: Any) -> None:
    assert run("export", tmp_path / "run", "--format", "aoti", "--out", tmp_path / "model.pt2") == 2
    assert one_error(capsys) == f"retinanet-fast: {tmp_path / 'run'}: no such checkpoint"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_the_export(
    package: str, trained: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [name for name in ("onnx", "onnxscript", "onnxruntime") if name != package]
    for name in others:
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    monkeypatch.setitem(sys.modules, package, None)
    assert run("export", trained, "--format", "onnx", "--out", tmp_path / "model.onnx") == 1
    assert one_error(capsys) == (
        f"retinanet-fast: this needs {package}, which is not installed here: "
        'pip install "retinanet_fast[export]"'
    )
