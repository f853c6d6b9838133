"""faster-coco-eval beside pycocotools, and LVIS's numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from generated_detections import box, detection, generated, results_of, split_of

from retinanet_fast.engine.data.split import Location, Split
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.evaluation import coco_numbers
from retinanet_fast.engine.evaluation.analysis import analyse
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, choose_evaluator, evaluate
from retinanet_fast.engine.evaluation.federated import LVIS_MOST, read_federation
from retinanet_fast.engine.evaluation.results import Results

pytest.importorskip("pycocotools", reason="evaluation needs pycocotools")
pytest.importorskip("faster_coco_eval", reason="the comparison needs faster-coco-eval")

# pycocotools adds 2**-52 to the denominator of each precision, faster-coco-eval does not: a few last bits.
BITS = 1e-12


def both(split: Split, results: Results, image_ids: list[int] | None = None) -> list[Evaluation]:
    return [evaluate(split, results, image_ids, name) for name in ("faster", "pycocotools")]


def assert_equal(split: Split, results: Results, image_ids: list[int] | None = None) -> Evaluation:
    faster, truth = both(split, results, image_ids)
    assert faster.numbers == pytest.approx(truth.numbers, rel=0, abs=BITS, nan_ok=True)
    np.testing.assert_allclose(faster.curves.precision, truth.curves.precision, rtol=0, atol=BITS)
    np.testing.assert_allclose(faster.curves.recall, truth.curves.recall, rtol=0, atol=0)
    for one, other in zip(faster.per_category, truth.per_category, strict=True):
        assert one == pytest.approx(other, abs=BITS, nan_ok=True)
    assert (faster.evaluator, truth.evaluator) == ("faster-coco-eval", "pycocotools")
    return faster


@pytest.mark.parametrize("seed", range(6))
def test_both_evaluators_agree(seed: int) -> None:
    split, results = generated(seed)
    found = assert_equal(split, results)
    assert 0.05 < found.numbers["AP"] < 0.95
    assert np.isnan(found.per_category[-1][1])  # the category without boxes
    assert found.numbers["AR100"] > found.numbers["AR10"] > found.numbers["AR1"]
    assert not any(np.isnan(found.numbers[name]) for name in ("APS", "APM", "APL"))


def test_both_agree_on_some_of_the_images() -> None:
    split, results = generated(7)
    some = split.images.ids[3:20].tolist()
    assert assert_equal(split, results, some).numbers != evaluate(split, results).numbers


def test_both_agree_without_detections_and_without_boxes() -> None:
    split, results = generated(8)
    assert assert_equal(split, results_of()).numbers["AP"] == 0
    empty = split_of({image_id: [] for image_id in split.images.ids.tolist()})
    assert np.isnan(assert_equal(empty, results).numbers["AP"])


def test_only_the_hundred_best_detections_of_a_category_count() -> None:
    split = split_of({1: [box(0, 0, 50, 50)]})
    wrong = [detection(1, (200, 200, 20, 20), 0.9) for _ in range(100)]
    late = detection(1, (0, 0, 50, 50), 0.1)
    assert assert_equal(split, results_of(*wrong, late)).numbers["AR100"] == 0
    assert assert_equal(split, results_of(*wrong[:99], late)).numbers["AR100"] == 1


def test_auto_is_the_faster_one_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_evaluator(name) for name in ("auto", "faster", "pycocotools")] == [
        "faster",
        "faster",
        "pycocotools",
    ]
    monkeypatch.setattr(coco_numbers.importlib.util, "find_spec", lambda name: None)
    assert choose_evaluator("auto") == "pycocotools"


def lvis(tmp_path: Path, split: Split, seed: int) -> dict[str, Any]:
    """The split as an LVIS json, with drawn lists of categories for each image."""
    draw = np.random.default_rng(seed)
    ids = [category.id for category in split.categories]
    images = []
    for index, image in enumerate(split.images):
        there = {box.category_id for box in split.boxes_of(index)}
        absent = [id for id in ids if id not in there and draw.random() < 0.5]
        some = [id for id in there if draw.random() < 0.3]
        images.append(
            {"id": image.id, "width": image.width, "height": image.height, "neg_category_ids": absent}
            | {"not_exhaustive_category_ids": some}
        )
    categories = [{"id": c.id, "name": c.name, "frequency": "rcf"[c.id // 10 % 3]} for c in split.categories]
    annotations = [
        {
            "id": number,
            "image_id": int(split.images.ids[owner]),
            "category_id": box.category_id,
            "bbox": list(box[:4]),
        }
        | {"area": box.area, "iscrowd": int(box.crowd)}
        for number, (owner, box) in enumerate(zip(split.owners, split.boxes), 1)
    ]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "lvis.json").write_text(json.dumps(document))
    return document


def as_lvis(split: Split, tmp_path: Path) -> Split:
    return replace(split, location=Location(tmp_path / "lvis.json", (), "lvis"))


@pytest.mark.parametrize("seed", range(3))
def test_lvis_numbers_are_those_of_faster_coco_evals_own_lvis_style(tmp_path: Path, seed: int) -> None:
    from faster_coco_eval import COCO, COCOeval_faster

    split, results = generated(seed)
    keep = split.images.ids < 2**53  # its table of detections is of float64
    results = results.rows(np.isin(results.image_id, split.images.ids[keep]))
    results = results.rows(np.isin(results.category_id, [category.id for category in split.categories]))
    split = split.of_images(keep)
    document = lvis(tmp_path, split, seed)
    found = evaluate(as_lvis(split, tmp_path), results)

    truth = COCO(document)
    order = np.argsort(results.image_id, kind="stable")
    rows = (results.image_id, results.bbox, results.score, results.category_id)
    theirs = COCOeval_faster(truth, truth.loadRes(np.column_stack(rows)[order]), "bbox", lvis_style=True)
    theirs.params.maxDets = [LVIS_MOST]
    theirs.run()
    expected = theirs.stats_as_dict
    names = {"AP": "AP_all", "AP50": "AP_50", "AP75": "AP_75", "APS": "AP_small", "APM": "AP_medium"}
    names |= {"APL": "AP_large", "APr": "APr", "APc": "APc", "APf": "APf", "AR300": "AR_all"}
    names |= {"ARS": "AR_small", "ARM": "AR_medium", "ARL": "AR_large"}
    assert found.numbers.keys() == names.keys()
    for name, other in names.items():
        assert found.numbers[name] == pytest.approx(expected[other], abs=BITS), name
    assert found.numbers != evaluate(split, results).numbers
    assert "maxDets=300" in found.table()


def test_lvis_counts_an_alarm_only_where_the_image_is_annotated(tmp_path: Path) -> None:
    boxes = {1: [box(0, 0, 50, 50), box(100, 100, 50, 50, 20)], 2: []}
    split = split_of(boxes, 2)
    document = lvis(tmp_path, split, 0)
    right = detection(1, (0, 0, 50, 50), 0.5)
    alarm = detection(2, (0, 0, 50, 50), 0.9)

    def ap_and_alarms(negative: list[int], not_exhaustive: list[int]) -> tuple[float, int]:
        document["images"][1] |= {"neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive}
        (tmp_path / "lvis.json").write_text(json.dumps(document))
        found = as_lvis(split, tmp_path), results_of(right, alarm)
        return evaluate(*found).per_category[0][1], analyse(*found).counts["background"]

    assert ap_and_alarms([], []) == (pytest.approx(1), 0)  # nobody looked
    assert ap_and_alarms([10], []) == (pytest.approx(0.5), 1)
    assert ap_and_alarms([10], [10]) == (pytest.approx(1), 0)


def test_lvis_counts_three_hundred_detections_of_an_image(tmp_path: Path) -> None:
    split = split_of({1: [box(0, 0, 50, 50)]}, 2)
    lvis(tmp_path, split, 0)
    split = as_lvis(split, tmp_path)
    others = [detection(1, (200, 200, 20, 20), 0.9, 20) for _ in range(300)]
    late = detection(1, (0, 0, 50, 50), 0.1)
    assert evaluate(split, results_of(*others, late)).numbers["AP"] == 0
    assert evaluate(split, results_of(*others[:299], late)).numbers["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda document: document["images"][0].pop("neg_category_ids"),
            "missing required field `neg_category_ids`",
        ),
        (
            lambda document: document["categories"][0].update(frequency="x"),
            "categories[0]: expected frequency r, c or f",
        ),
        (
            lambda document: document["images"][0].update(neg_category_ids=[10**30]),
            "images[0].neg_category_ids[0]",
        ),
        (lambda document: document["categories"][0].update(frequency=1), "Expected `str`, got `int`"),
    ],
)
def test_an_lvis_json_that_lacks_something_is_named(tmp_path: Path, change: Any, expected: str) -> None:
    document = lvis(tmp_path, split_of({1: []}), 0)
    change(document)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as caught:
        read_federation(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pycocotools_has_no_lvis_numbers(tmp_path: Path) -> None:
    split = split_of({1: []})
    lvis(tmp_path, split, 0)
    with pytest.raises(InputError, match="expected faster"):
        evaluate(as_lvis(split, tmp_path), results_of(), evaluator="pycocotools")
