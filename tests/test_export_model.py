"""Whole models as files: written, loaded anew, and compared with the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_sets import real
from export_model import RECIPE, make_detector, pictures

from retinanet_fast.engine.data.dataset import read_image
from retinanet_fast.export import Agreement, compare, export_model, load_exported
from retinanet_fast.models import BatchDetector
from retinanet_fast.structures import Detections


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For any batch and size."""
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="writing and running ONNX files needs it")
    file = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_model(make_detector(), file, "onnx")
    return file


def agreement(file: Path, format: str, images: torch.Tensor) -> Agreement:
    model = make_detector()
    with torch.inference_mode():
        expected = BatchDetector(model)(images)
        return compare(expected, load_exported(file, format)(images), model.score_thresh)


@pytest.mark.parametrize("shape", [(1, 150, 190), (3, 260, 200)])
def test_onnx_takes_any_batch_and_size(onnx_file: Path, shape: tuple[int, int, int]) -> None:
    found = agreement(onnx_file, "onnx", pictures(*shape))
    assert found.pairs > 100 * shape[0]
    assert found.within_bounds, str(found)


def test_onnx_on_photographs(onnx_file: Path) -> None:
    for file in sorted((real("bccd") / "images").glob("*.jpg"))[:3]:
        found = agreement(onnx_file, "onnx", read_image(file)[None].float() / 255)
        assert found.pairs > 100
        assert found.within_bounds, str(found)


def test_onnx_is_standard_operators_with_named_outputs(onnx_file: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    nodes = model.graph.node
    assert {node.domain for node in nodes} == {""}
    assert sum(node.op_type == "NonMaxSuppression" for node in nodes) == 1
    assert [entry.name for entry in model.graph.input] == ["images"]
    assert [entry.name for entry in model.graph.output] == ["boxes", "scores", "labels", "counts"]


def test_a_program_of_one_size(tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    export_model(make_detector(), file, "torch", size=(150, 190), batch=2)
    found = agreement(file, "torch", pictures(2, 150, 190))
    assert found.pairs > 200
    # The same ops on the same numbers.
    assert (found.boxes, found.scores, found.alone) == (0, 0, 0)


def test_unknown_formats_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a format of torch, aoti, onnx, got 'tflite'"):
        export_model(make_detector(), tmp_path / "model", "tflite")
    with pytest.raises(ValueError, match=r"expected a file whose name ends in \.pt2, .*model\.pth"):
        export_model(make_detector(), tmp_path / "model.pth", "torch")
    with pytest.raises(ValueError, match="expected a format of torch, aoti, onnx, got 'tflite'"):
        load_exported(tmp_path / "model", "tflite")


def test_a_model_whose_levels_have_one_cell_needs_a_size(tmp_path: Path) -> None:
    small = make_detector(RECIPE.replace(min_size=[128]))
    with pytest.raises(ValueError, match=r"resizes images to 128 pixels.*give a size"):
        export_model(small, tmp_path / "model.pt2", "torch")


def detections(scores: list[float], labels: list[int], limit: int = 4) -> Detections:
    """Boxes whose left edge is ten times their place."""
    count = len(scores)
    boxes = torch.zeros(1, limit, 4)
    boxes[0, :, 0] = torch.arange(limit) * 10
    boxes[0, :, 2:] = boxes[0, :, :2] + 50
    padded = torch.tensor([scores + [0.0] * (limit - count)])
    return Detections(boxes, padded, torch.tensor([labels + [-1] * (limit - count)]), torch.tensor([count]))


def swapped(found: Detections) -> Detections:
    order = torch.tensor([1, 0, 2, 3])
    return Detections(found.boxes[:, order], found.scores[:, order], found.labels[:, order], found.counts)


def test_compare_pairs_detections_in_another_order() -> None:
    found = detections([0.9, 0.9, 0.3], [1, 1, 2])
    assert compare(found, swapped(found), 0.05) == Agreement(pairs=3)


def test_compare_reports_the_largest_differences() -> None:
    expected, found = detections([0.9, 0.8], [1, 2]), detections([0.9, 0.8], [1, 2])
    found.boxes[0, 1, 3] += 0.5
    found.scores[0, 0] -= 0.004
    result = compare(expected, found, 0.05)
    assert (result.pairs, result.alone) == (2, 0)
    assert result.boxes == pytest.approx(0.5)
    assert result.scores == pytest.approx(0.004, abs=1e-6)
    assert not result.within_bounds


@pytest.mark.parametrize(
    ("expected", "found", "alone"),
    [
        (detections([0.9, 0.3], [1, 1]), detections([0.9], [1]), 1),
        (detections([0.9], [1]), detections([0.9, 0.3], [1, 1]), 1),
        (detections([0.9], [1]), detections([0.9], [2]), 2),
        (detections([0.9, 0.05001], [1, 1]), detections([0.9], [1]), 0),  # at the threshold
        (
            detections([0.9, 0.8, 0.7, 0.5], [1, 1, 1, 1]),
            detections([0.9, 0.8, 0.7, 0.5], [1, 1, 1, 2]),
            0,
        ),  # at D
    ],
)
def test_compare_counts_what_only_one_has(expected: Detections, found: Detections, alone: int) -> None:
    result = compare(expected, found, 0.05)
    assert result.alone == alone
    assert result.within_bounds == (alone == 0)
