"""What each kind of error costs: the AP50 that would be gained if there were none of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.error_kinds import (
    BACKGROUND,
    BOTH,
    CLASSIFICATION,
    CORRECT,
    DUPLICATE,
    IGNORED,
    KINDS,
    LOCALISATION,
    ErrorKinds,
)
from retinanet_fast.engine.evaluation.results import Results

RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ErrorCosts:
    """AP at the foreground IoU, and what is gained by each kind put right alone: the kinds of error, and missed."""

    ap: float
    gained: dict[str, float]


def error_costs(split: Split, results: Results, found: ErrorKinds) -> ErrorCosts:
    """TIDE's delta AP of each kind (Bolya et al. 2020, https://arxiv.org/abs/2008.08115, section 2.3).

    gained = max(0, AP with the kind put right - AP). A classification error gets its box's category, a localisation
    error its box's place; of several that refer to one box the highest score finds it, and the others, and those
    whose box is found already, are left out, as duplicates, backgrounds and both are. Missed boxes are taken off the
    number to find; a category with none left counts 1.

    AP is COCO's: the mean over the categories with boxes of the precision at 101 recalls, from the highest score
    down. Without any box it is NaN, and nothing is gained.

    Args:
        found: of the same results on the same split.
    """
    categories = np.array(sorted(category.id for category in split.categories), dtype=np.int64)
    own = np.searchsorted(categories, results.category_id).clip(max=len(categories) - 1)
    of_box = np.searchsorted(categories, split.boxes.category_ids)
    to_find = np.bincount(of_box[~split.boxes.crowd], minlength=len(categories))
    right, counts = found.kinds == CORRECT, found.kinds != IGNORED
    if not to_find.any():
        return ErrorCosts(np.nan, {name: 0.0 for name in (*_errors(), "missed")})
    order = np.lexsort((results.image_id, -results.score))  # stable
    ap = _mean_ap(order, own, right, counts, to_find, to_find > 0)
    finders = _finders(results, found)
    gained = {}
    for kind in (CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND):
        these = found.kinds == kind
        fixed = these & finders
        category = np.where(fixed, of_box[found.truth], own)
        after = _mean_ap(order, category, right | fixed, counts & (~these | fixed), to_find, to_find > 0)
        gained[KINDS[kind]] = max(0.0, after - ap)
    left = to_find - np.bincount(of_box[found.missed], minlength=len(categories))
    gained["missed"] = max(0.0, _mean_ap(order, own, right, counts, left, to_find > 0) - ap)
    return ErrorCosts(ap, gained)


def _errors() -> tuple[str, ...]:
    return KINDS[CLASSIFICATION : BACKGROUND + 1]


def _finders(results: Results, found: ErrorKinds) -> np.ndarray:
    """``[n]`` bool, the classification and localisation errors that would find a box which nothing finds."""
    free = np.ones(len(found.missed) + 1, dtype=bool)  # one more for truth -1
    free[found.truth[found.kinds == CORRECT]] = False
    rows = np.flatnonzero(np.isin(found.kinds, (CLASSIFICATION, LOCALISATION)) & free[found.truth])
    rows = rows[np.lexsort((-results.score[rows], found.truth[rows]))]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = found.truth[rows][1:] != found.truth[rows][:-1]
    finders = np.zeros(len(found.kinds), dtype=bool)
    finders[rows[first]] = True
    return finders


def _mean_ap(
    order: np.ndarray,
    category: np.ndarray,
    right: np.ndarray,
    counts: np.ndarray,
    to_find: np.ndarray,
    averaged: np.ndarray,
) -> float:
    """The mean of AP over the categories in a mask; detections are taken in an order, those that count."""
    rows = order[counts[order]]
    rows = rows[np.argsort(category[rows], kind="stable")]
    bounds = np.searchsorted(category[rows], np.arange(len(to_find) + 1))
    aps = [_ap(right[rows[bounds[k] : bounds[k + 1]]], int(to_find[k])) for k in np.flatnonzero(averaged)]
    return float(np.mean(aps))


def _ap(right: np.ndarray, to_find: int) -> float:
    """Of detections from the highest score down."""
    if to_find == 0:
        return 1.0
    hits = np.cumsum(right)
    precision = hits / np.arange(1, len(hits) + 1)
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    place = np.searchsorted(hits / to_find, RECALLS)
    return float(np.append(highest, 0.0)[place].mean())
