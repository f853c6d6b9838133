"""What goes wrong in an evaluation: kinds of error and what they cost, and which category is taken for which."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.evaluation.coco_numbers import counted
from retinanet_fast.engine.evaluation.confusion import confusion_matrix
from retinanet_fast.engine.evaluation.curves import category_ids
from retinanet_fast.engine.evaluation.error_costs import ErrorCosts, error_costs
from retinanet_fast.engine.evaluation.error_kinds import CORRECT, IGNORED, error_kinds
from retinanet_fast.engine.evaluation.federated import federation_of
from retinanet_fast.engine.evaluation.results import Results

# Only what the model is fairly sure of is drawn, and counted in the confusion matrix.
SCORE = 0.4
MEANINGS = {
    "classification": "a box of another category, well placed",
    "localisation": "the right category, badly placed",
    "both": "another category, and badly placed",
    "duplicate": "a box that a higher score has found",
    "background": "no box there",
    "missed": "boxes that no detection comes near",
}


@dataclass(frozen=True, eq=False)
class Analysis:
    """What ``analyse`` finds.

    Attributes:
        names: of the categories, in the order of their ids.
        counts: detections of each kind in ``KINDS``, and missed boxes.
        costs: AP50, and what is gained by each kind put right.
        confusion: as ``confusion_matrix`` has it, of detections from ``SCORE`` on.
    """

    names: list[str]
    counts: dict[str, int]
    costs: ErrorCosts
    confusion: np.ndarray

    def table(self) -> str:
        """The kinds of error: how many, and the AP50 that each costs."""
        lines = [f"{'error':<15} {'number':>8}  AP50 lost"]
        lines += [
            f"{kind:<15} {self.counts[kind]:>8}      {self.costs.gained[kind]:.3f}  {meaning}"
            for kind, meaning in MEANINGS.items()
        ]
        return "\n".join(lines)

    def confused(self, most: int = 8) -> list[tuple[str, str, int, float]]:
        """The pairs of categories that are confused most often: box, detection, how often, and the share of the
        boxes."""
        pairs = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(pairs, 0)
        boxes = self.confusion[:-1].sum(axis=1)
        order = np.argsort(-pairs, axis=None, kind="stable")[:most]
        rows = zip(*(index.tolist() for index in np.unravel_index(order, pairs.shape)))
        return [
            (self.names[i], self.names[j], int(pairs[i, j]), pairs[i, j] / boxes[i])
            for i, j in rows
            if pairs[i, j]
        ]


def analyse(split: Split, results: Results, image_ids: list[int] | None = None) -> Analysis:
    """Look into detections on the images of a split that are to count, by default all.

    In LVIS's format only detections where an image is annotated are looked into, and those that match nothing are
    ignored where not all objects are annotated.

    Raises:
        ValueError: a detection on an image that is not in the split.
        InputError: an LVIS json lacks what says where images are annotated.
    """
    federation = federation_of(split)
    split, results = counted(split, results, image_ids)
    lenient = np.zeros(len(results), dtype=bool)
    if federation is not None:
        kept, lenient = federation.apply(split, results)
        results, lenient = results.rows(kept), lenient[kept]
    found = error_kinds(split, results)
    found.kinds[lenient & (found.kinds != CORRECT)] = IGNORED
    name_of = {category.id: category.name for category in split.categories}
    return Analysis(
        [name_of[category_id] for category_id in category_ids(split).tolist()],
        found.counts(),
        error_costs(split, results, found),
        confusion_matrix(split, results, SCORE),
    )
