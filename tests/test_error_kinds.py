"""Kinds of error, what they cost, and the confusion matrix."""

from __future__ import annotations

import numpy as np
import pytest
from generated_detections import box, detection, generated, results_of, split_of

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation import overlaps as overlaps_module
from retinanet_fast.engine.evaluation.coco_numbers import evaluate
from retinanet_fast.engine.evaluation.confusion import confusion_matrix
from retinanet_fast.engine.evaluation.error_costs import error_costs
from retinanet_fast.engine.evaluation.error_kinds import KINDS, ErrorKinds, error_kinds
from retinanet_fast.engine.evaluation.overlaps import overlaps
from retinanet_fast.engine.evaluation.results import Results

# A box of category 10 in the corner, one of 20 beside it, a crowd of 10 below.
SCENE = {1: [box(0, 0, 40, 40), box(100, 0, 40, 40, 20), box(0, 200, 100, 100, crowd=True)], 2: []}


def names_of(found: ErrorKinds) -> list[str]:
    return [KINDS[kind] for kind in found.kinds]


@pytest.mark.parametrize(
    ("category_id", "bbox", "kind", "truth", "iou"),
    [
        (10, (0, 0, 40, 40), "correct", 0, 1.0),
        (10, (0, 0, 40, 20), "correct", 0, 0.5),  # the threshold is within
        (10, (0, 0, 40, 10), "localisation", 0, 0.25),
        (10, (0, 0, 40, 4), "localisation", 0, 0.1),
        (20, (0, 0, 40, 40), "classification", 0, 1.0),
        (20, (0, 0, 40, 10), "both", 0, 0.25),
        (20, (0, 0, 40, 4), "background", -1, 0.1),
        (10, (300, 300, 40, 40), "background", -1, 0.0),
        (10, (0, 250, 100, 100), "ignored", 2, 0.5),  # of the detection, half is in the crowd
        (20, (0, 200, 100, 100), "background", -1, 0.0),  # a crowd of another category is none
        (40, (0, 0, 40, 40), "ignored", -1, 1.0),  # no such category
    ],
)
def test_each_kind(category_id: int, bbox: tuple[float, ...], kind: str, truth: int, iou: float) -> None:
    split = split_of(SCENE)
    found = error_kinds(split, results_of(detection(1, bbox, category_id=category_id)))
    assert names_of(found) == [kind]
    assert found.truth.tolist() == [truth]
    assert found.iou.tolist() == [pytest.approx(iou)]
    # The box is not missed where one step would find it; the crowd never is.
    assert found.missed.tolist() == [kind not in ("correct", "localisation", "classification"), True, False]


def test_the_lower_score_is_the_duplicate_whatever_its_iou() -> None:
    split = split_of(SCENE)
    results = results_of(detection(1, (0, 0, 40, 40), 0.4), detection(1, (0, 0, 40, 36), 0.6))
    assert names_of(error_kinds(split, results)) == ["duplicate", "correct"]


def test_of_equal_scores_the_first_counts_as_higher_and_only_on_its_image() -> None:
    split = split_of({1: [box(0, 0, 40, 40)], 2: [box(0, 0, 40, 40)]})
    results = results_of(*(detection(image_id, (0, 0, 40, 40)) for image_id in (2, 1, 2)))
    assert names_of(error_kinds(split, results)) == ["correct", "correct", "duplicate"]


def test_a_detection_on_an_image_without_boxes_is_background() -> None:
    assert names_of(error_kinds(split_of(SCENE), results_of(detection(2, (0, 0, 40, 40))))) == ["background"]


def test_nothing_at_all() -> None:
    split = split_of(SCENE)
    found = error_kinds(split, results_of())
    assert found.missed.tolist() == [True, True, False]
    assert found.counts() == {**dict.fromkeys(KINDS, 0), "missed": 2}
    assert error_costs(split, results_of(), found).gained["missed"] == 1  # and nothing else is wrong
    empty = split_of({1: []})
    assert np.isnan(error_costs(empty, results_of(), error_kinds(empty, results_of())).ap)


def test_a_detection_on_another_splits_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="on the split's images only"):
        error_kinds(split_of(SCENE), results_of(detection(3, (0, 0, 40, 40))))


def one_by_one(split: Split, results: Results, f: float = 0.5, b: float = 0.1) -> list[str]:
    """The definition, a detection at a time, over all boxes of its image."""
    known = {category.id for category in split.categories}
    kinds = [""] * len(results)
    for index, image_id in enumerate(split.images.ids):
        boxes = list(split.boxes_of(index))
        rows = np.flatnonzero(results.image_id == image_id)
        taken: set[int] = set()
        seen: dict[int, int] = {}
        for row in sorted(rows, key=lambda row: -results.score[row]):  # stable
            category_id, (x, y, w, h) = int(results.category_id[row]), results.bbox[row]
            seen[category_id] = seen.get(category_id, 0) + 1
            same, other, crowd, free = [0.0], [0.0], [0.0], []
            for place, truth in enumerate(boxes):
                across = min(x + w, truth.x + truth.width) - max(x, truth.x)
                down = min(y + h, truth.y + truth.height) - max(y, truth.y)
                inside = across * down if across > 0 and down > 0 else 0.0
                if truth.crowd:
                    crowd.append(inside / (w * h) if truth.category_id == category_id else 0.0)
                    continue
                iou = inside / (w * h + truth.width * truth.height - inside)
                (same if truth.category_id == category_id else other).append(iou)
                if truth.category_id == category_id and place not in taken and iou >= f:
                    free.append((iou, place))
            if category_id not in known or seen[category_id] > 100:
                kinds[row] = "ignored"
            elif free:
                taken.add(max(free)[1])
                kinds[row] = "correct"
            elif max(crowd) >= f:
                kinds[row] = "ignored"
            elif b <= max(same) < f:
                kinds[row] = "localisation"
            elif max(other) >= f:
                kinds[row] = "classification"
            elif max(same) >= f:
                kinds[row] = "duplicate"
            else:
                kinds[row] = "background" if max(same + other) <= b else "both"
    return kinds


@pytest.mark.parametrize("seed", range(4))
def test_the_arrays_say_what_the_definition_says(seed: int) -> None:
    split, results = generated(seed)
    found = error_kinds(split, results)
    assert names_of(found) == one_by_one(split, results)
    assert min(found.counts().values()) > 0  # every kind is among them
    has = found.truth >= 0
    assert (split.owners[found.truth[has]] == split.images.index_of(results.image_id[has])).all()


@pytest.mark.parametrize("seed", range(4))
def test_correct_detections_are_those_of_coco(seed: int) -> None:
    split, results = generated(seed)
    costs = error_costs(split, results, error_kinds(split, results))
    # pycocotools adds 2**-52 to a denominator.
    assert costs.ap == pytest.approx(evaluate(split, results).numbers["AP50"], abs=1e-12)
    assert all(0 <= gained <= 1 for gained in costs.gained.values())
    assert costs.gained.keys() == {
        "classification",
        "localisation",
        "both",
        "duplicate",
        "background",
        "missed",
    }


def test_overlaps_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    split, results = generated(0)
    whole = overlaps(split, results)
    monkeypatch.setattr(overlaps_module, "AT_ONCE", 7)
    parts = overlaps(split, results)
    for name in ("detection", "truth", "iou"):
        assert (getattr(whole, name) == getattr(parts, name)).all()


def gained(split: Split, *detections: dict[str, object]) -> tuple[float, dict[str, float]]:
    results = results_of(*detections)
    costs = error_costs(split, results, error_kinds(split, results))
    return costs.ap, {kind: value for kind, value in costs.gained.items() if value > 0}


def test_what_each_kind_costs() -> None:
    """One category, two boxes: found at the first place, the other one is all that there is to gain."""
    split = split_of({1: [box(0, 0, 40, 40), box(100, 0, 40, 40)]}, 2)
    right, half = detection(1, (0, 0, 40, 40), 0.9), pytest.approx(51 / 101)  # recalls 0, 0.01, ..., 0.5
    assert gained(split, right) == (half, {"missed": pytest.approx(50 / 101)})
    near = detection(1, (100, 0, 40, 10), 0.8)
    assert gained(split, right, near) == (half, {"localisation": pytest.approx(50 / 101)})
    named_wrong = detection(1, (100, 0, 40, 40), 0.8, 20)
    assert gained(split, right, named_wrong) == (half, {"classification": pytest.approx(50 / 101)})
    # Both would find the box: one of them does, the other one is left out.
    assert gained(split, right, near, named_wrong)[1] == {
        "localisation": pytest.approx(50 / 101),
    }


def test_an_alarm_that_scores_higher_than_the_truth_costs_precision() -> None:
    split = split_of({1: [box(0, 0, 40, 40)]}, 1)
    right = detection(1, (0, 0, 40, 40), 0.5)
    assert gained(split, detection(1, (300, 300, 9, 9), 0.9), right) == (0.5, {"background": 0.5})
    two = split_of({1: [box(0, 0, 40, 40)], 2: [box(0, 0, 40, 40)]}, 1)
    rows = [detection(1, (0, 0, 40, 40), score) for score in (0.9, 0.8)]
    ap, costs = gained(two, *rows, detection(2, (0, 0, 40, 40), 0.7))
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert costs == {"duplicate": pytest.approx(1 - ap)}


def test_the_confusion_matrix() -> None:
    split = split_of(SCENE, 2)
    found = [
        detection(1, (0, 0, 40, 40), 0.9, 20),  # the box of 10 is taken for 20
        detection(1, (0, 0, 40, 36), 0.9, 10),  # overlaps it less: on no box that is left
        detection(1, (0, 210, 50, 50), 0.9, 20),  # in the crowd
        detection(2, (0, 0, 40, 40), 0.9, 10),
        detection(1, (100, 0, 40, 40), 0.3, 20),  # below the score
    ]
    assert confusion_matrix(split, results_of(*found), 0.5).tolist() == [[0, 1, 0], [0, 0, 1], [2, 0, 0]]
    assert confusion_matrix(split, results_of(*found), 0.3).tolist() == [[0, 1, 0], [0, 1, 0], [2, 0, 0]]
    assert confusion_matrix(split_of({1: []}, 2), results_of(), 0.5).tolist() == [[0] * 3] * 3


@pytest.mark.parametrize("seed", range(2))
def test_each_box_is_in_the_confusion_matrix_once(seed: int) -> None:
    split, results = generated(seed)
    matrix = confusion_matrix(split, results, 0.5)
    for index, category in enumerate(split.categories):
        mine = (split.boxes.category_ids == category.id) & ~split.boxes.crowd
        assert matrix[index].sum() == mine.sum()
        assert matrix[:, index].sum() <= ((results.category_id == category.id) & (results.score >= 0.5)).sum()
    assert matrix[-1, -1] == 0
