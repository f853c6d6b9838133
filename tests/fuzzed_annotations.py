"""Reads mutated annotation files of a format, in a process of its own: ``python fuzzed_annotations.py FORMAT COUNT SEED
FOLDER``. Prints a line for each case that ends in something else than one line or a split that holds what it promises,
and, last, how the cases ended."""

from __future__ import annotations

import collections
import json
import random
import sys
import traceback
from pathlib import Path

import data_forms
import data_sets
import numpy as np
from fuzzing import SECONDS, limit_memory, mutated_json, mutated_text, within

from retinanet_fast.engine.data.dataset import CocoDataset
from retinanet_fast.engine.data.sources import locate, read_annotations, read_split
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.evaluation.coco_numbers import evaluate
from retinanet_fast.engine.evaluation.results import read_results
from retinanet_fast.engine.run_record import DataRecord

# The files of each format that are mutated.
FILES = {
    "coco": ["annotations/instances_train.json"],
    "lvis": ["lvis_v1_train.json"],
    "objects365": ["annotations/zhiyuan_objv2_train.json"],
    "voc": ["Annotations/a.xml", "Annotations/b.xml", "ImageSets/Main/train.txt"],
    "yolo": ["data.yaml", "labels/train/a.txt", "labels/train/b.txt"],
    # Not a format of a data set, but also read: detections on the images of one.
    "results": ["results.json"],
}


DETECTIONS = [
    {"image_id": image_id, "category_id": 2, "bbox": [1, 2, 3.5, 4], "score": 0.5} for image_id in (7, 9, 7)
]


def write(folder: Path, format: str) -> Path:
    document = data_sets.document()
    for number, category_id in ((3, 2), (4, 5)):
        entry = {"id": number, "image_id": 9, "category_id": category_id, "bbox": [1, 1, 4, 4]}
        document["annotations"].append(entry)
    data_sets.write(folder / "source", document)
    if format == "results":
        data_forms.write_coco(folder / format, "train", document, folder / "source" / "images")
        (folder / format / "results.json").write_text(json.dumps(DETECTIONS))
        return folder / format
    data_forms.WRITERS[format](folder / format, "train", document, folder / "source" / "images")
    return folder / format


def check(split: Split) -> None:
    """A split holds what it promises, whatever was read."""
    images, boxes = split.images, split.boxes
    assert len(images) == len(split.starts) - 1 > 0
    assert len(set(images.ids.tolist())) == len(images)
    assert len({category.id for category in split.categories}) == len(split.categories) > 0
    assert (images.sizes > 0).all()
    sizes = images.sizes[split.owners]
    low, high = boxes.xywh[:, :2], boxes.xywh[:, :2] + boxes.xywh[:, 2:]
    # A billionth of a pixel: x + width is rounded once more here.
    assert ((low >= 0) & (high <= sizes * (1 + 1e-9)) & (boxes.xywh[:, 2:] > 0)).all(), boxes.xywh
    assert np.isfinite(boxes.areas).all()
    assert (boxes.areas >= 0).all()
    assert set(boxes.category_ids.tolist()) <= {category.id for category in split.categories}
    dataset = CocoDataset(split, split.categories)
    for index in range(min(3, len(dataset))):
        dataset[index]
    DataRecord.of(split)


def outcome(folder: Path, format: str, skip: bool) -> str:
    """How reading ends; raises where it ends as it must not."""
    problems = Problems(skip)
    try:
        with within(SECONDS):
            location = locate(folder, "train", "coco" if format == "results" else format)
            if location is None:
                return "no such split"
            if not skip:
                read_annotations(location, Problems(True))
            split = read_split(location, problems)
            check(split)
            if format == "results":
                evaluate(split, read_results(folder / "results.json", split))
    except InputError as error:
        text = str(error)
        assert len(text.splitlines()) == 1, f"of {len(text.splitlines())} lines: {text!r:.300}"
        assert len(text) < 1000, f"of {len(text)} letters: {text:.300}"
        assert folder.name in text or "(image id " in text, f"names no file: {text}"
        return "error"
    for message in problems.messages:
        assert len(message.splitlines()) == 1, f"{message!r:.300}"
        assert len(message) < 1000, f"of {len(message)} letters: {message:.300}"
    return "read, some left out" if problems.messages else "read"


def main(format: str, count: int, seed: int, parent: Path) -> None:
    folder = write(parent, format)
    files = FILES[format]
    originals = {name: (folder / name).read_text() for name in files}
    for skip in (False, True):
        assert outcome(folder, format, skip) == "read"
    limit_memory()
    ends: collections.Counter[str] = collections.Counter()
    for number in range(count):
        draw = random.Random(f"{format} {seed} {number}")
        name = draw.choice(files)
        if name.endswith("json"):
            content = mutated_json(json.loads(originals[name]), draw)
        else:
            content = mutated_text(originals[name], draw)
        (folder / name).write_bytes(content)
        for skip in (False, True):
            try:
                ends[outcome(folder, format, skip)] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                kept = parent / f"{format}-{seed}-{number}"
                kept.write_bytes(content)
                where = traceback.extract_tb(error.__traceback__)[-1]
                print(
                    f"{kept} as {name}, skip={skip}: {type(error).__name__}: {error} at {where.filename}:{where.lineno}"
                )
        (folder / name).write_text(originals[name])
    print(json.dumps(ends))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
