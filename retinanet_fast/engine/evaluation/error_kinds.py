"""What each detection is: right, or in which way wrong; and the boxes that nothing finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.overlaps import Overlaps, image_rows, overlaps
from retinanet_fast.engine.evaluation.results import Results

KINDS = ("correct", "classification", "localisation", "both", "duplicate", "background", "ignored")
CORRECT, CLASSIFICATION, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, IGNORED = range(len(KINDS))
# COCO counts so many detections of a category on an image, those of the highest scores.
MOST = 100


@dataclass(frozen=True, eq=False)
class ErrorKinds:
    """The kinds of n detections on a split of m boxes.

    Attributes:
        kinds: ``[n]`` int8, an index into ``KINDS`` for each row of the results.
        truth: ``[n]`` int64, the row of ``split.boxes`` that the kind refers to; -1 of background and of what is
            ignored but for a crowd.
        iou: ``[n]`` float64, with that box; without one, the largest with any box of the image that is no crowd.
        missed: ``[m]`` bool, the boxes that no detection finds, nor would find if one error were put right; never a
            crowd.
    """

    kinds: np.ndarray
    truth: np.ndarray
    iou: np.ndarray
    missed: np.ndarray

    def counts(self) -> dict[str, int]:
        """How many detections are of each kind, and under ``missed`` how many boxes are."""
        numbers = np.bincount(self.kinds, minlength=len(KINDS)).tolist()
        return {**dict(zip(KINDS, numbers, strict=True)), "missed": int(self.missed.sum())}


def error_kinds(
    split: Split, results: Results, foreground_iou: float = 0.5, background_iou: float = 0.1
) -> ErrorKinds:
    """The kind of each detection, after TIDE (Bolya et al. 2020, https://arxiv.org/abs/2008.08115, section 2.2).

    Detections are matched as COCO matches them: from the highest score, each takes the box of its category, not yet
    taken, that it overlaps most, if IoU >= ``foreground_iou`` = f. With the largest IoU to any box of its category
    (same), of the other categories (other) and of all, and ``background_iou`` = b, a detection is the first of

    ============== ==============================================================================
    correct        matched
    ignored        same >= f with a crowd; or not counted by COCO: beyond the 100 best of its category on the
                   image, or of a category that the split does not have
    localisation   b <= same < f
    classification other >= f
    duplicate      same >= f: the box is taken by a detection that scored higher
    background     all <= b
    both           else: of another category, and misplaced
    ============== ==============================================================================

    A box is missed where it is not matched and no classification or localisation error refers to it.

    Args:
        results: on images of the split, in any order; of equal scores on an image the first counts as higher.

    Raises:
        ValueError: a detection on an image that is not in the split.
    """
    count = len(results)
    place = _places(split, results)
    pairs = overlaps(split, results)
    crowd = split.boxes.crowd[pairs.truth]
    same = results.category_id[pairs.detection] == split.boxes.category_ids[pairs.truth]
    matched, matched_iou = _match(pairs.rows(same & ~crowd & (pairs.iou >= foreground_iou)), place)
    same_iou, same_truth = pairs.best(same & ~crowd, count)
    other_iou, other_truth = pairs.best(~same & ~crowd, count)
    crowd_iou, crowd_truth = pairs.best(same & crowd, count)
    best_iou = np.maximum(same_iou, other_iou)
    best_truth = np.where(same_iou >= other_iou, same_truth, other_truth)
    nothing = np.full(count, -1, dtype=np.int64)

    kinds = np.full(count, BOTH, dtype=np.int8)
    truth, iou = best_truth.copy(), best_iou.copy()
    # The last one that holds has the last word.
    for kind, holds, its_truth, its_iou in (
        (BACKGROUND, best_iou <= background_iou, nothing, best_iou),
        (DUPLICATE, same_iou >= foreground_iou, same_truth, same_iou),
        (CLASSIFICATION, other_iou >= foreground_iou, other_truth, other_iou),
        (LOCALISATION, (same_iou >= background_iou) & (same_iou < foreground_iou), same_truth, same_iou),
        (IGNORED, crowd_iou >= foreground_iou, crowd_truth, crowd_iou),
        (IGNORED, place < 0, nothing, best_iou),
        (CORRECT, matched >= 0, matched, matched_iou),
    ):
        kinds[holds], truth[holds], iou[holds] = kind, its_truth[holds], its_iou[holds]
    missed = ~split.boxes.crowd
    missed[truth[np.isin(kinds, (CORRECT, CLASSIFICATION, LOCALISATION))]] = False
    return ErrorKinds(kinds, truth, iou, missed)


def _places(split: Split, results: Results) -> np.ndarray:
    """The detections' places from the highest score down within an image and a category; -1 of those not counted."""
    image = image_rows(split, results)
    order = np.lexsort((-results.score, results.category_id, image))  # stable
    starts = np.ones(len(order), dtype=bool)
    for column in (image[order], results.category_id[order]):
        starts[1:] &= column[1:] == column[:-1]
    starts[1:] = ~starts[1:]
    numbers = np.arange(len(order))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = numbers - np.maximum.accumulate(np.where(starts, numbers, 0))
    known = np.isin(results.category_id, [category.id for category in split.categories])
    return np.where(known & (place < MOST), place, -1)


def _match(pairs: Overlaps, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The box that each detection takes, and its IoU; -1 and 0 where it takes none.

    Args:
        pairs: those that may be matched.
        place: of each detection, as ``_places`` has it.
    """
    # Of boxes that a detection overlaps equally, pycocotools takes the last.
    order = np.lexsort((-pairs.truth, -pairs.iou, pairs.detection, place[pairs.detection]))
    matched, iou = np.full(len(place), -1, dtype=np.int64), np.zeros(len(place))
    taken: set[int] = set()
    last = -1  # the detection matched last: its pairs are side by side
    some = pairs.rows(order[place[pairs.detection[order]] >= 0])
    for detection, truth, value in zip(some.detection.tolist(), some.truth.tolist(), some.iou.tolist()):
        if detection != last and truth not in taken:
            matched[detection], iou[detection] = truth, value
            taken.add(truth)
            last = detection
    return matched, iou
