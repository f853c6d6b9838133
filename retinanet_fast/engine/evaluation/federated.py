"""LVIS's evaluation: not every image is annotated for every category (Gupta et al. 2019, https://arxiv.org/abs/1908.03195)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from retinanet_fast.engine.data.json_values import content_of
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.evaluation.curves import Curves, category_ids
from retinanet_fast.engine.evaluation.overlaps import image_rows
from retinanet_fast.engine.evaluation.results import Results

# LVIS counts so many detections on an image, those of the highest scores, of whatever categories.
LVIS_MOST = 300
FREQUENCIES = {"r": "APr", "c": "APc", "f": "APf"}


Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class _Image(msgspec.Struct):
    id: Id
    neg_category_ids: list[Id]
    not_exhaustive_category_ids: list[Id]


class _Category(msgspec.Struct):
    id: Id
    frequency: str


class _Document(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]


@dataclass(frozen=True, eq=False)
class Federation:
    """What a json in LVIS's format says of its images and categories.

    Attributes:
        negative: ``[N, 2]`` int64, image id and category id: no object of the category is on the image.
        not_exhaustive: the same, where only some objects are annotated.
        frequency: r (rare), c (common) or f (frequent) by category id.
    """

    negative: np.ndarray
    not_exhaustive: np.ndarray
    frequency: dict[int, str]

    def apply(self, split: Split, results: Results) -> tuple[np.ndarray, np.ndarray]:
        """Which detections count, and of which a false alarm is no mistake: ``[N]`` bool each.

        A detection counts if it is one of the 300 best of its image, and if its image is annotated for its category:
        has a box of it, or is known to have no object of it.
        """
        image = image_rows(split, results)
        order = np.lexsort((-results.score, image))  # stable
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order)) - np.searchsorted(image[order], image[order])
        ids = category_ids(split)

        def keys(images: np.ndarray, categories: np.ndarray) -> np.ndarray:
            """A number for each pair; -1 where the split has no such image or category."""
            at = np.searchsorted(ids, categories).clip(max=len(ids) - 1)
            return np.where((images >= 0) & (ids[at] == categories), images * len(ids) + at, -1)

        def listed(pairs: np.ndarray) -> np.ndarray:
            return keys(split.images.index_of(pairs[:, 0]), pairs[:, 1])

        own = keys(image, results.category_id)
        positive = keys(split.owners, split.boxes.category_ids)
        annotated = np.isin(own, np.concatenate((positive, listed(self.negative))))
        lenient = np.isin(own, listed(self.not_exhaustive))
        return (place < LVIS_MOST) & (own >= 0) & annotated, lenient

    def numbers(self, split: Split, curves: Curves) -> dict[str, float]:
        """LVIS's thirteen numbers."""
        frequencies = np.array([self.frequency.get(id, "") for id in category_ids(split).tolist()])
        areas = {"S": "small", "M": "medium", "L": "large"}
        return {
            **{"AP": curves.ap(), "AP50": curves.ap(0.5), "AP75": curves.ap(0.75)},
            **{f"AP{letter}": curves.ap(area=area) for letter, area in areas.items()},
            **{
                name: curves.ap(categories=np.flatnonzero(frequencies == letter))
                for letter, name in FREQUENCIES.items()
            },
            f"AR{LVIS_MOST}": curves.ar(LVIS_MOST),
            **{f"AR{letter}": curves.ar(LVIS_MOST, area) for letter, area in areas.items()},
        }


def federation_of(split: Split) -> Federation | None:
    """Of a split in LVIS's format; None of any other.

    Raises:
        InputError: see ``read_federation``.
    """
    location = split.location
    return (
        read_federation(location.annotations) if location is not None and location.format == "lvis" else None
    )


def read_federation(path: Path) -> Federation:
    """What an LVIS json says of its images and categories; boxes are skipped unread.

    Raises:
        InputError: an entry lacks what LVIS's evaluation needs; it names file and entry.
    """
    try:
        document = msgspec.json.decode(content_of(path), type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {one_line(error)}; LVIS's evaluation needs it") from None
    for index, category in enumerate(document.categories):
        if category.frequency not in FREQUENCIES:
            raise InputError(
                f"{path}: categories[{index}]: expected frequency r, c or f, got {category.frequency!r}"
            )
    return Federation(
        _pairs((image.id, image.neg_category_ids) for image in document.images),
        _pairs((image.id, image.not_exhaustive_category_ids) for image in document.images),
        {category.id: category.frequency for category in document.categories},
    )


def _pairs(lists: Iterable[tuple[int, list[int]]]) -> np.ndarray:
    return np.array(
        [(image, category) for image, some in lists for category in some], dtype=np.int64
    ).reshape(-1, 2)
