"""Whether two implementations detect the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retinanet_fast.structures import Detections

__all__ = ["BOX_BOUND", "SCORE_BOUND", "Agreement", "compare"]

BOX_BOUND = 0.01  # pixels
SCORE_BOUND = 1e-4
# Two detections that differ by more than this many bounds are not taken for one.
PAIRED = 100.0


@dataclass
class Agreement:
    """How far two ``Detections`` are apart.

    Attributes:
        pairs: the detections that both have.
        boxes: the largest difference of a corner in pixels.
        scores: the largest difference of a score.
        alone: the detections that one of the two lacks, although their score is not at the edge of being left out.
    """

    pairs: int = 0
    boxes: float = 0.0
    scores: float = 0.0
    alone: int = 0

    @property
    def within_bounds(self) -> bool:
        return self.boxes <= BOX_BOUND and self.scores <= SCORE_BOUND and self.alone == 0

    def __add__(self, other: Agreement) -> Agreement:
        return Agreement(
            self.pairs + other.pairs,
            max(self.boxes, other.boxes),
            max(self.scores, other.scores),
            self.alone + other.alone,
        )

    def __str__(self) -> str:
        return (
            f"{self.pairs} detections: boxes within {self.boxes:.2g} px (bound {BOX_BOUND:g}), scores within "
            f"{self.scores:.2g} (bound {SCORE_BOUND:g}), {self.alone} that only one has"
        )


def compare(expected: Detections, found: Detections, score_thresh: float) -> Agreement:
    """Pair the detections of both, image by image.

    Two convolutions of the same numbers differ in the last bits, so scores that are nearly equal may be in another
    order, and one at an edge (``score_thresh``, or the last of ``D``) may be left out. A detection's partner is the
    closest one of its label.

    Raises:
        ValueError: another number of images or another D.
    """
    if expected.scores.shape != found.scores.shape:
        shapes = f"{list(expected.scores.shape)}, got {list(found.scores.shape)}"
        raise ValueError(f"compare: expected scores {shapes}")
    images = zip(expected.unpack(), found.unpack(), strict=True)
    limit = expected.scores.shape[1]
    return sum((_compare_image(a, b, score_thresh, limit) for a, b in images), Agreement())


def _compare_image(
    expected: dict[str, Tensor], found: dict[str, Tensor], score_thresh: float, limit: int
) -> Agreement:
    boxes = (expected["boxes"][:, None] - found["boxes"]).abs().amax(-1)
    scores = (expected["scores"][:, None] - found["scores"]).abs()
    other = expected["labels"][:, None] != found["labels"]
    distance = torch.maximum(boxes / BOX_BOUND, scores / SCORE_BOUND).masked_fill(other, torch.inf)
    pairs = []
    for row in range(len(distance)):
        if distance.shape[1] and distance[row].min() <= PAIRED:
            column = int(distance[row].argmin())
            pairs.append((row, column))
            distance[:, column] = torch.inf
    edges = [score_thresh]
    edges += [float(side["scores"][-1]) for side in (expected, found) if len(side["scores"]) == limit]
    alone = 0
    for index, side in enumerate((expected, found)):
        paired = {pair[index] for pair in pairs}
        rest = [score for row, score in enumerate(side["scores"].tolist()) if row not in paired]
        alone += sum(all(abs(score - edge) > SCORE_BOUND for edge in edges) for score in rest)
    if not pairs:
        return Agreement(alone=alone)
    rows, columns = (torch.tensor(part) for part in zip(*pairs, strict=True))
    return Agreement(len(pairs), float(boxes[rows, columns].max()), float(scores[rows, columns].max()), alone)
