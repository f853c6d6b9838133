"""Which detections a page is of, and on which images."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinanet_fast.engine.data.split import Split, index_of
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.results import Results, load_detected, read_results


class Found(NamedTuple):
    """Detections, what they are called, and the split of the images on which they were looked for."""

    name: str
    split: Split
    results: Results


def read_found(file: Path, split: Split, problems: Problems) -> Found:
    """The detections in a file: a run's ``detections.npz``, or json in COCO's results format, of all images.

    Raises:
        InputError: they are on images or of categories that the split has not, and ``problems`` does not skip them.
    """
    name = file.name
    if file.suffix == ".npz":
        detected = load_detected(file)
        name = f"epoch {detected.epoch}" if detected.epoch else name
        image_ids = np.array(detected.image_ids, dtype=np.int64)
        known = _known(split.images.ids, image_ids, f"{file}: image", split, problems)
        results = detected.results
        split = split.of_images(np.sort(index_of(split.images.ids, image_ids[known])))
        results = results.rows(index_of(split.images.ids, results.image_id) >= 0)
    else:
        results = read_results(file, split)
    ids = np.array([category.id for category in split.categories], dtype=np.int64)
    known = _known(ids, results.category_id, f"{file}: category_id", split, problems)
    return Found(name, split, results.rows(known))


def _known(ids: np.ndarray, wanted: np.ndarray, what: str, split: Split, problems: Problems) -> np.ndarray:
    """Which of the ids are among the split's; the others are reported."""
    known = index_of(ids, wanted) >= 0
    for unknown in np.unique(wanted[~known]).tolist():
        problems.report(
            f"{what} {unknown} is not in {split.annotations}: is this the data of the detections?"
        )
    return known
