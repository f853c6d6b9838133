"""COCO's numbers by pycocotools, and the results format."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import data_sets
import pytest
import torch

from retinanet_fast.cli import main
from retinanet_fast.engine.data.coco import Split, read_annotations
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.coco_numbers import NAMES, Evaluation
from retinanet_fast.engine.evaluation.coco_numbers import evaluate as evaluate_arrays
from retinanet_fast.engine.evaluation.paper import ROWS, comparison
from retinanet_fast.engine.evaluation.results import from_batch, from_list, pack

# pycocotools' own numbers on its example detections (val2014_fake_eval_res.txt has their first three digits).
FAKE_BOX_100 = {
    "AP": 0.5045806987249628,
    "AP50": 0.6969727247299577,
    "AP75": 0.5729816669904824,
    "APS": 0.5856257209410443,
    "APM": 0.5193996948036719,
    "APL": 0.5013978986347466,
    "AR1": 0.38681277964578054,
    "AR10": 0.5936795762842003,
    "AR100": 0.595352982877607,
    "ARS": 0.6398109626113442,
    "ARM": 0.5664205978994309,
    "ARL": 0.5642905982905982,
}


def needs_pycocotools() -> None:
    pytest.importorskip("pycocotools", reason="evaluation needs pycocotools")


def evaluate(split: Split, results: list[dict[str, Any]], image_ids: list[int] | None = None) -> Evaluation:
    return evaluate_arrays(split, from_list(results), image_ids)


def split_of(tmp_path: Path, content: dict[str, Any]) -> Split:
    needs_pycocotools()
    return read_annotations(data_sets.write(tmp_path, content), Problems(False))


def test_the_twelve_numbers_of_cocos_example() -> None:
    needs_pycocotools()
    folder = data_sets.real("cocoapi_fakebbox100")
    split = read_annotations(folder / "instances_val2014_100.json", Problems(False))
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = evaluate(split, results).numbers
    assert list(found) == list(NAMES)
    # The same code on the same doubles: only the order of a mean could move the last bits.
    assert found == pytest.approx(FAKE_BOX_100, rel=0, abs=1e-12)


def test_the_program_evaluates_a_results_file(capsys: pytest.CaptureFixture[str]) -> None:
    needs_pycocotools()
    folder = data_sets.real("cocoapi_fakebbox100")
    truth, results = "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"
    words = ["eval", "--results", str(folder / results), "--val-json", str(folder / truth), "--compare"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    values = [float(line.split("=")[-1].split()[0]) for line in lines[:12]]
    assert values == pytest.approx(list(FAKE_BOX_100.values()), abs=5e-4)  # three digits are printed
    table = "\n".join(lines)
    assert "COCO test-dev" in table
    for name, _ in ROWS:
        assert name in table
    assert [float(v) for v in lines[-2].split()[-6:]] == pytest.approx(
        [50.5, 69.7, 57.3, 58.6, 51.9, 50.1], abs=0.05
    )


def test_perfect_detections_score_one_and_crowds_are_ignored(tmp_path: Path) -> None:
    split = split_of(tmp_path, data_sets.document())
    perfect = [{"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9}]
    found = evaluate(split, perfect)
    assert found.numbers["AP"] == pytest.approx(1)
    assert found.per_category[1] == ("dog", pytest.approx(1), pytest.approx(1), 1)
    # The only cat is a crowd: there is no cat to find, and detections in the crowd are no mistake.
    assert math.isnan(found.per_category[0][1])
    in_crowd = {"image_id": 7, "category_id": 2, "bbox": [0, 0, 16, 12], "score": 0.95}
    assert evaluate(split, [*perfect, in_crowd]).numbers["AP"] == pytest.approx(1)


def test_the_first_annotation_counts_even_if_its_id_is_zero(tmp_path: Path) -> None:
    document = data_sets.document()
    document["annotations"][0]["id"] = 0  # pycocotools would take a match with it for none
    split = split_of(tmp_path, document)
    perfect = [{"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9}]
    assert evaluate(split, perfect).numbers["AP"] == pytest.approx(1)


def test_no_detections_at_all(tmp_path: Path) -> None:
    numbers = evaluate(split_of(tmp_path, data_sets.document()), []).numbers
    assert (numbers["AP"], numbers["AR100"]) == (0, 0)
    assert math.isnan(numbers["APL"])  # no large object to find


def test_a_false_alarm_on_an_image_without_boxes_counts(tmp_path: Path) -> None:
    split = split_of(tmp_path, data_sets.document())
    results = [
        {"image_id": 9, "category_id": 5, "bbox": [1, 1, 5, 5], "score": 0.95},
        {"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9},
    ]
    assert evaluate(split, results).numbers["AP"] == pytest.approx(0.5)
    assert evaluate(split, results, image_ids=[7]).numbers["AP"] == pytest.approx(1)


def test_detections_in_cocos_format() -> None:
    output = {
        "boxes": torch.tensor([[1.0, 2.0, 4.0, 8.0]] * 4),
        "scores": torch.tensor([0.5, 0.25, 0.125, 0.75]),
        "labels": torch.tensor([2, 1, 0, 3]),
    }
    # Label 0 is background, and the second category is not in this data set.
    found = from_batch(pack([output]), [42], [17, None, 90]).to_list()
    assert found == [
        {"image_id": 42, "category_id": 17, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.25},
        {"image_id": 42, "category_id": 90, "bbox": [1.0, 2.0, 3.0, 6.0], "score": 0.75},
    ]


def test_the_papers_table(tmp_path: Path) -> None:
    table = comparison(evaluate(split_of(tmp_path, data_sets.document()), []), "ours")
    rows = {line[:26].strip(): [float(v) for v in line.split()[-6:]] for line in table.splitlines()[1:10]}
    assert rows["RetinaNet ResNet-101-FPN"] == [39.1, 59.1, 42.3, 21.8, 42.7, 50.2]
    assert rows["RetinaNet ResNeXt-101-FPN"] == [40.8, 61.1, 44.1, 24.1, 44.2, 51.2]
    assert len(rows) == 9


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("box", "[1]: expected an object, got 'box'"),
        ({"image_id": 8}, "[1]: image_id 8 is not in"),
        ({"image_id": [7]}, "[1]: image_id [7] is not in"),
        ({"image_id": 7, "category_id": 5, "bbox": [1, 2, 3, 4]}, "[1]: expected a category_id and a score"),
        (
            {"image_id": 7, "category_id": 5, "score": 1, "bbox": [1, 2]},
            "[1]: expected bbox [x, y, width, height]",
        ),
    ],
)
def test_a_bad_results_file_is_named_in_one_line(
    tmp_path: Path, capsys: Any, entry: Any, expected: str
) -> None:
    truth = data_sets.write(tmp_path, data_sets.document())
    good = {"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9}
    results = tmp_path / "results.json"
    results.write_text(json.dumps([good, entry]))
    assert main(["eval", "--results", str(results), "--val-json", str(truth)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert f"{results}: {expected}" in lines[0]
