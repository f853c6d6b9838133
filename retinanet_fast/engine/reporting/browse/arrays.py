"""What the page is drawn from, in arrays: some 17 bytes a detection, where a json object takes a hundred."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from retinanet_fast.engine.data.split import Split, index_of
from retinanet_fast.engine.evaluation.error_kinds import KINDS, ErrorKinds
from retinanet_fast.engine.evaluation.results import Results

# What 1 is stored as: a score, or an image's width or height. An image of 4,000 pixels gets boxes to 0.03 pixels.
UNIT = 65535
IOU_UNIT = 255
WRONG = ("classification", "localisation", "both", "duplicate", "background")
# A truth that a detection of these kinds belongs to is not missed.
EXPLAINING = ("correct", "classification", "localisation")


def pack(split: Split, results: Results, found: ErrorKinds, turns: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays by the names that ``arrays.js`` asks for.

    Detections are ordered by image and by falling score; ``found-truths`` are rows of the truth, -1 for none.

    Args:
        results: on images of the split alone, in categories of the split alone.
        turns: ``[N]``, the EXIF orientation that the browser has to undo, 0 for none.

    Raises:
        ValueError: a detection is on another image or of another category.
    """
    owners = _known(split.images.ids, results.image_id, "image")
    order = np.lexsort((-results.score, owners))
    ids = np.array([category.id for category in split.categories], dtype=np.int64)
    truth_classes = _known(ids, split.boxes.category_ids, "category")
    found_classes = _known(ids, results.category_id, "category")
    starts = np.searchsorted(owners[order], np.arange(len(split.images) + 1))
    return {
        "image-ids": split.images.ids.astype("<i8"),
        "image-sizes": split.images.sizes.astype("<u4"),
        "image-turns": turns.astype("u1"),
        "truth-starts": split.starts.astype("<u4"),
        "truth-boxes": _shares(split.boxes.xywh, split.images.sizes[split.owners]),
        "truth-classes": truth_classes.astype("<u2"),
        "truth-crowd": split.boxes.crowd.astype("u1"),
        "found-starts": starts.astype("<u4"),
        "found-boxes": _shares(results.bbox[order], split.images.sizes[owners[order]]),
        "found-classes": found_classes[order].astype("<u2"),
        "found-scores": np.rint(results.score[order].clip(0, 1) * UNIT).astype("<u2"),
        "found-kinds": found.kinds[order].astype("u1"),
        "found-truths": found.truth[order].astype("<i4"),
        "found-ious": np.rint(found.iou[order].clip(0, 1) * IOU_UNIT).astype("u1"),
    }


def is_kind(found: ErrorKinds, names: Iterable[str]) -> np.ndarray:
    """``[n]`` bool, the detections of these kinds."""
    return np.isin(found.kinds, [KINDS.index(name) for name in names])


def best_score(split: Split, results: Results, found: ErrorKinds) -> float:
    """The score from which detections make the best F1 = 2 TP / (detections + objects), in steps of 0.01; crowds and
    what is ignored do not count. 0.5 where nothing was found."""
    steps = np.arange(1, 100) / 100

    def from_each(which: np.ndarray) -> np.ndarray:
        return np.array([np.count_nonzero(results.score[which] >= step) for step in steps])

    right, counted = from_each(is_kind(found, ("correct",))), from_each(~is_kind(found, ("ignored",)))
    f1 = 2 * right / np.maximum(1, counted + np.count_nonzero(~split.boxes.crowd))
    return float(steps[f1.argmax()]) if f1.any() else 0.5


def worst_first(split: Split, results: Results, found: ErrorKinds, score: float) -> np.ndarray:
    """``[N]``, the split's images by falling weight of their errors, as the page orders them: the scores of the wrong
    detections from ``score`` on, and 1 for each object that none of them finds or nearly finds."""
    above = results.score >= score
    wrong = above & is_kind(found, WRONG)
    owners = index_of(split.images.ids, results.image_id)
    explained = np.zeros(len(split.boxes), dtype=bool)
    explained[found.truth[above & is_kind(found, EXPLAINING) & (found.truth >= 0)]] = True
    missed = split.owners[~explained & ~split.boxes.crowd]
    count = len(split.images)
    weights = np.bincount(owners[wrong], results.score[wrong], count) + np.bincount(missed, minlength=count)
    return np.argsort(-weights, kind="stable")


def _known(known: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    places = index_of(known, wanted)
    if (places < 0).any():
        raise ValueError(f"browse: {what} {wanted[places < 0][0]} is not one of the split's")
    return places


def _shares(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``[n, 4]`` corners in 1 / ``UNIT`` of an image's sides, clipped to the image."""
    corners = np.concatenate((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), axis=1)
    shares = (corners / np.concatenate((sizes, sizes), axis=1)).clip(0, 1)
    return np.rint(shares * UNIT).astype("<u2")
