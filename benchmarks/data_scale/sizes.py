"""How large a generated data set is, and what sizes its pictures have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# (width, height) and how many of 100 photographs of COCO 2017 have it (50 of train and 50 of val); those that occur
# once or twice among them are summed up in `OTHER` and drawn.
COMMON = {
    (640, 480): 18,
    (640, 427): 13,
    (480, 640): 11,
    (427, 640): 5,
    (640, 426): 4,
    (640, 425): 4,
    (425, 640): 3,
    (640, 428): 3,
    (375, 500): 5,
    (500, 375): 2,
    (640, 360): 2,
    (640, 640): 1,
    (612, 612): 1,
}
OTHER = 100 - sum(COMMON.values())
# Of those: the longer side is 640 (or 500, one in five), the shorter one 0.45 to 1 of it, a quarter is upright. Steps
# of 8 pixels keep the number of sizes, and so of different pictures, small.
STEP = 8


@dataclass(frozen=True)
class SplitScale:
    """Numbers of one split."""

    name: str
    images: int
    boxes: int


@dataclass(frozen=True)
class Scale:
    """What a data set has; the defaults are COCO 2017's numbers."""

    splits: tuple[SplitScale, ...] = (
        SplitScale("train2017", 118_287, 860_001),
        SplitScale("val2017", 5_000, 36_781),
    )
    polygon_points: int = 23  # on average: a json of 450 MB for the default numbers, as COCO's is
    folders: int = 8  # of each split's files
    pictures_per_size: int = 4  # different ones; files of a size are hard links to them
    smaller: int = 1  # sides of pictures and boxes are divided by this
    seed: int = 0


SCALES = {
    "coco": Scale(),
    "tiny": Scale((SplitScale("train2017", 60, 430), SplitScale("val2017", 12, 80)), pictures_per_size=1),
}


def picture_sizes(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    """``[count, 2]``, widths and heights, distributed as COCO's."""
    table = np.array(list(COMMON), dtype=np.int64)
    weights = np.array([*COMMON.values(), OTHER]) / 100
    chosen = generator.choice(len(weights), count, p=weights)
    longer = np.where(generator.random(count) < 0.2, 500, 640)
    shorter = (longer * generator.uniform(0.45, 1.0, count)).astype(np.int64) // STEP * STEP
    upright = generator.random(count) < 0.25
    other = np.stack((np.where(upright, shorter, longer), np.where(upright, longer, shorter)), axis=1)
    return np.where((chosen == len(table))[:, None], other, table[np.minimum(chosen, len(table) - 1)])
