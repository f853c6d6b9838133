"""COCO's numbers by pycocotools, and the results format."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import data_sets
import pytest
import torch
from tiny_run import tiny_model

from retinanet_fast.cli import main
from retinanet_fast.engine.data.coco import read_annotations, read_split
from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.loader import eval_loader
from retinanet_fast.engine.data.split import Location, Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.coco_numbers import NAMES, Evaluation
from retinanet_fast.engine.evaluation.coco_numbers import evaluate as evaluate_arrays
from retinanet_fast.engine.evaluation.detect import detect
from retinanet_fast.engine.evaluation.paper import ROWS, comparison
from retinanet_fast.engine.evaluation.results import from_batch, from_list, pack, write_results
from retinanet_fast.engine.recipe import Recipe

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


def evaluate(
    split: Split, results: list[dict[str, Any]], image_ids: list[int] | None = None, evaluator: str = "auto"
) -> Evaluation:
    return evaluate_arrays(split, from_list(results), image_ids, evaluator)


def split_of(tmp_path: Path, content: dict[str, Any]) -> Split:
    needs_pycocotools()
    return read_annotations(data_sets.write(tmp_path, content), Problems(False))


@pytest.mark.parametrize("evaluator", ["faster", "pycocotools"])
def test_the_twelve_numbers_of_cocos_example(evaluator: str) -> None:
    needs_pycocotools()
    folder = data_sets.real("cocoapi_fakebbox100")
    split = read_annotations(folder / "instances_val2014_100.json", Problems(False))
    results = json.loads((folder / "instances_val2014_fakebbox100_results.json").read_text())
    found = evaluate(split, results, evaluator=evaluator).numbers
    assert list(found) == list(NAMES)
    # The same doubles: only the order of a mean, and 2**-52 in a denominator, could move the last bits.
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
            {"image_id": 7, "category_id": 10**30, "score": 1, "bbox": [1, 2, 3, 4]},
            "[1]: expected a category_id and a score",
        ),
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


@pytest.mark.parametrize(
    ("evaluator", "bits"),
    # The same code on the same doubles; faster-coco-eval does not add 2**-52 to a denominator.
    [("pycocotools", 0), ("faster", 1e-12)],
)
def test_the_numbers_are_those_of_pycocotools_given_lists(
    tmp_path: Path, evaluator: str, bits: float
) -> None:
    """On random boxes with equal scores, crowds, images without detections, and ids that float64 does not hold."""
    needs_pycocotools()
    draw = random.Random(0)
    ids = [2**55 + 1, 2**55, *range(40, 50), 3, 2, 1]

    def boxes(count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            x, y, side = draw.randint(0, 60), draw.randint(0, 60), draw.choice([4, 8, 30, 60, 110])
            bbox = [float(x), float(y), float(side), side * draw.choice([0.5, 1.0])]
            found.append({"image_id": draw.choice(ids), "category_id": draw.choice([2, 5]), "bbox": bbox})
        return found

    truth = [
        {**box, "id": place, "area": box["bbox"][2] * box["bbox"][3], "iscrowd": int(draw.random() < 0.1)}
        for place, box in enumerate(boxes(60), 1)
    ]
    near = [{**box, "bbox": [side + draw.choice([0, 1]) for side in box["bbox"]]} for box in truth[::2]]
    results = [
        {key: box[key] for key in ("image_id", "category_id", "bbox")}
        | {"score": draw.choice([0.25, 0.5, 0.75])}
        for box in near + boxes(60)
    ]
    images = [{"id": id, "file_name": f"{id}.png", "width": 200, "height": 200} for id in ids]
    document = {"images": images, "annotations": truth, "categories": data_sets.CATEGORIES}
    found = evaluate(split_of(tmp_path, document), results, evaluator=evaluator).numbers

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    coco = COCO()
    coco.dataset = {"info": {}, **document}
    coco.createIndex()
    expected = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "bbox")
    for step in (expected.evaluate, expected.accumulate, expected.summarize):
        step()
    assert list(found.values()) == pytest.approx(expected.stats.tolist(), rel=0, abs=bits)
    assert 0 < found["AP"] < 1


def test_detections_on_another_splits_image_are_an_error(tmp_path: Path) -> None:
    stray = {"image_id": 8, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9}
    with pytest.raises(ValueError, match="on the split's images only"):
        evaluate(split_of(tmp_path, data_sets.document()), [stray])
    stray["image_id"] = 10**6
    with pytest.raises(ValueError, match="on the split's images only"):
        evaluate(split_of(tmp_path, data_sets.document()), [stray])


def test_results_keep_every_bit_in_a_file(tmp_path: Path) -> None:
    entries = [{"image_id": 7, "category_id": 5, "bbox": [0.1, 1 / 3, 10.0, 8.5], "score": 0.1 + 0.2}]
    write_results(tmp_path / "found.json", from_list(entries))
    assert json.loads((tmp_path / "found.json").read_text()) == entries
    assert len(from_list([])) == 0


def test_a_detector_of_dicts_is_packed_to_fixed_size() -> None:
    outputs = [
        {"boxes": torch.rand(count, 4), "scores": torch.rand(count), "labels": torch.ones(count).long()}
        for count in (2, 0, 3)
    ]
    for packed, output in zip(pack(outputs), outputs, strict=True):
        assert all(torch.equal(packed[key], output[key]) for key in output)


def test_batches_for_evaluation_are_of_like_shapes(tmp_path: Path) -> None:
    sizes = [(64, 32), (32, 64), (60, 32), (32, 60), (62, 32)]
    images = [
        {"id": id, "file_name": f"{id}.png", "width": width, "height": height}
        for id, (width, height) in enumerate(sizes)
    ]
    split = split_of(tmp_path, {**data_sets.document(), "images": images, "annotations": []})
    dataset = CocoDataset(split, split.categories)
    loader = eval_loader(dataset, 3, Recipe(workers=0), torch.device("cpu"))
    assert loader.batch_sampler == [[0, 4, 2], [3, 1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_finds_what_the_cpu_finds(tmp_path: Path) -> None:
    split = read_split(
        Location(data_sets.write(tmp_path, data_sets.document()), (tmp_path / "images",)), Problems(False)
    )
    model = tiny_model(num_classes=3).eval()
    model.score_thresh, model.nms_thresh, model.detections_per_img = (
        0.0,
        1.0,
        20,
    )  # nothing hangs by a rounded IoU
    recipe = Recipe(precision="float32", batch_size=1, workers=0)
    found = []
    with torch.backends.cudnn.flags(allow_tf32=False):
        for name in ("cpu", "cuda"):
            device = torch.device(name)
            found.append(detect(model.to(device), split, split.categories, recipe, device, Problems(False)))
    cpu, gpu = found
    assert cpu is not None
    assert gpu is not None
    assert gpu.image_ids == cpu.image_ids
    # Two orders of summing float32; equal scores may come in either order.
    assert gpu.results.score == pytest.approx(cpu.results.score, abs=1e-4)
