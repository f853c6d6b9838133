"""What ``eval --out`` writes, and the page's sections on an evaluation."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import data_sets
import numpy as np
import pytest
from generated_detections import generated, results_of, split_of
from PIL import Image

from retinanet_fast.cli import main
from retinanet_fast.engine.data.split import Category, Split
from retinanet_fast.engine.evaluation.analysis import Analysis, analyse
from retinanet_fast.engine.evaluation.coco_numbers import Evaluation, evaluate
from retinanet_fast.engine.evaluation.results import Results
from retinanet_fast.engine.reporting.evaluation_folder import write_evaluation
from retinanet_fast.engine.reporting.evaluation_plots import MOST_CATEGORIES, confusion_figure, curves_figure
from retinanet_fast.engine.reporting.plots import png

pytest.importorskip("pycocotools", reason="evaluation needs pycocotools")
pytest.importorskip("matplotlib", reason="the pictures need matplotlib")

NAMES = {"detections.json", "numbers.json", "precision_recall.png", "confusion.png", "report.html"}


class Page(HTMLParser):
    """The text of a page, and how often each tag is opened and closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags = "", []
        self.feed(path.read_text())

    def handle_data(self, data: str) -> None:
        self.text += data + " "

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in ("img", "meta"):
            self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.tags.pop() == tag


def scored(split: Split, results: Results) -> tuple[Evaluation, Analysis]:
    return evaluate(split, results), analyse(split, results)


def test_the_program_writes_a_folder_of_a_results_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = data_sets.real("cocoapi_fakebbox100")
    truth, results = "instances_val2014_100.json", data / "instances_val2014_fakebbox100_results.json"
    out = tmp_path / "some" / "folder"
    words = ["eval", "--results", str(results), "--val-json", str(data / truth), "--out", str(out)]
    assert main(words) == 0
    assert {path.name for path in out.iterdir()} == NAMES
    assert json.loads((out / "detections.json").read_text()) == json.loads(results.read_text())
    numbers = json.loads((out / "numbers.json").read_text())
    assert numbers["numbers"]["AP50"] == pytest.approx(0.6969727247299577)
    assert len(numbers["categories"]) == 80
    assert None in [category["AP"] for category in numbers["categories"]]  # without boxes
    page = Page(out / "report.html")
    assert page.tags == []
    for text in (truth, results.name, "0.697", "734 detections", "duplicate", "Errors"):
        assert text in page.text
    assert "Detections beside the truth" not in page.text  # the images are not at hand
    assert "Training" not in page.text
    shown = capsys.readouterr().out
    assert "AP50 lost" in shown
    rows = {line.split()[0]: line.split()[1:3] for line in shown.splitlines() if line}
    for kind, entry in numbers["errors"].items():
        assert rows[kind] == [str(entry["number"]), f"{entry['AP50_lost']:.3f}"]


def test_a_name_that_ends_in_json_gets_the_detections_alone(tmp_path: Path) -> None:
    truth = data_sets.write(tmp_path, data_sets.document())
    entries = [{"image_id": 7, "category_id": 5, "bbox": [4.0, 6.0, 10.0, 8.0], "score": 0.9}]
    (tmp_path / "in.json").write_text(json.dumps(entries))
    out = tmp_path / "new" / "out.json"
    words = ["--results", str(tmp_path / "in.json"), "--val-json", str(truth), "--out", str(out)]
    assert main(["eval", *words, "--evaluator", "pycocotools"]) == 0
    assert json.loads(out.read_text()) == entries
    assert list(out.parent.iterdir()) == [out]


def test_names_are_text_on_the_page(tmp_path: Path) -> None:
    split, results = generated(1)
    split = dataclasses.replace(
        split,
        categories=[Category(c.id, f"<script>alert({c.id})</script>&{c.name}") for c in split.categories],
    )
    write_evaluation(tmp_path, "<b>a model</b>", split, *scored(split, results))
    page = Page(tmp_path / "report.html")
    assert page.tags == []
    assert "<script>alert(10)</script>&c1" in page.text
    assert "<b>a model</b>" in page.text
    assert "<script" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("categories", [1, 6, MOST_CATEGORIES + 40])
def test_pictures_of_few_and_many_categories(tmp_path: Path, categories: int) -> None:
    split, results = generated(2, categories=max(2, categories))
    if categories == 1:
        split = split_of({image_id: [] for image_id in split.images.ids.tolist()}, 1)
    write_evaluation(tmp_path, "a model", split, *scored(split, results))
    for name in ("precision_recall.png", "confusion.png"):
        with Image.open(tmp_path / name) as picture:
            picture.load()
            assert min(picture.size) > 300


def test_nothing_to_find_and_nothing_found() -> None:
    split = split_of({1: [], 2: []})
    evaluation, analysis = scored(split, results_of())
    assert len(png(curves_figure(evaluation))) > 1000
    assert len(png(confusion_figure(analysis))) > 1000
    assert analysis.confused() == []
    assert "missed                 0      0.000" in analysis.table()


def test_the_matrix_of_many_categories_keeps_every_count() -> None:
    from retinanet_fast.engine.reporting.evaluation_plots import _largest

    split, results = generated(3, images=60, categories=MOST_CATEGORIES + 40)
    analysis = analyse(split, results)
    names, matrix = _largest(analysis)
    assert names[-1] == "40 others"
    assert matrix.sum() == analysis.confusion.sum()
    assert matrix.shape == (MOST_CATEGORIES + 2,) * 2
    boxes = analysis.confusion[:-1].sum(axis=1)
    first = int(np.argmax(boxes))
    assert matrix[names.index(analysis.names[first])].sum() == boxes[first]


def test_what_is_confused_most() -> None:
    matrix = np.array([[5, 3, 0, 2], [1, 0, 0, 0], [0, 4, 0, 0], [9, 9, 9, 0]])
    split = split_of({1: []})
    analysis = dataclasses.replace(analyse(split, results_of()), confusion=matrix)
    assert analysis.confused(3) == [("c3", "c2", 4, 1.0), ("c1", "c2", 3, 0.3), ("c2", "c1", 1, 1.0)]
