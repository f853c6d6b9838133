"""Looks at everything about a split: each entry, and each image, which is decoded; all that is wrong is collected."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from retinanet_fast.engine.data.image_facts import image_facts
from retinanet_fast.engine.data.remembered import ImageFacts
from retinanet_fast.engine.data.sources import read_split
from retinanet_fast.engine.data.split import ImageEntry, Location, Split
from retinanet_fast.engine.errors import InputError, Problems

SHOWN = 10  # categories that a line names


@dataclass
class Checked:
    """What a check of a split found.

    Attributes:
        split: what can be used of it: the entries that are not among the problems; None where that is nothing.
        problems: one line each.
        turned: photos that EXIF turns: those whose entry has the turned size, and those whose entry has the stored one.
    """

    name: str
    location: Location
    split: Split | None = None
    problems: list[str] = field(default_factory=list)
    turned: tuple[int, int] = (0, 0)

    def lines(self) -> list[str]:
        """The summary."""
        head = f"{self.name}: {self.location.annotations} ({self.location.format})"
        if self.split is None:
            return [head, "  nothing in it can be used"]
        rows = {
            "images": _images(self.split),
            "boxes": _boxes(self.split),
            "categories": _categories(self.split),
            "EXIF": _turned(self.turned),
        }
        return [head, *(f"  {name:<11} {text}" for name, text in rows.items())]


def check_split(name: str, location: Location, workers: int | None = None) -> Checked:
    """Read a split, and decode all its images. What was decoded before and has not changed since is not decoded again.

    Args:
        workers: see ``image_facts``.
    """
    checked, problems = Checked(name, location), Problems(skip=True)
    try:
        split = read_split(location, problems)
    except InputError as error:
        checked.problems = [*problems.messages, str(error)]
        return checked
    paths = [image.path for image in split.images]
    faults: dict[int, str] = {}
    upright = stored = 0
    for index, facts in image_facts(paths, f"check {name}", decode=True, workers=workers):
        image = split.images[index]
        fault = image_fault(image, facts)
        if fault is not None:
            faults[index] = f"{image.path}: {fault} (image id {image.id})"
        elif facts.turn != 1:
            as_stored = (image.width, image.height) == (facts.width, facts.height)
            upright, stored = upright + (not as_stored), stored + as_stored
    checked.problems = [*problems.messages, *(faults[index] for index in sorted(faults))]
    checked.turned = (upright, stored)
    good = np.array([index not in faults for index in range(len(paths))])
    checked.split = split.of_images(good) if good.any() else None
    return checked


def image_fault(image: ImageEntry, facts: ImageFacts) -> str | None:
    """What is wrong with an image's file, if anything is."""
    if facts.fault is not None:
        return facts.fault
    if (image.width, image.height) in ((facts.width, facts.height), facts.upright):
        return None
    return f"the image is {facts.width}x{facts.height} pixels, its entry says {image.width}x{image.height}"


def _images(split: Split) -> str:
    empty = int((np.diff(split.starts) == 0).sum())
    return f"{len(split.images)}, {_range(split.images.sizes)} pixels; {empty} without boxes"


def _boxes(split: Split) -> str:
    boxes = split.boxes
    if not len(boxes):
        return "0"
    parts = [f"{len(boxes)}, {_range(boxes.xywh[:, 2:])} pixels"]
    parts.append(_count(int(boxes.crowd.sum()), "crowd"))
    parts.append(f"{int((boxes.areas == 0).sum())} with an area of 0")
    return "; ".join(parts)


def _categories(split: Split) -> str:
    found = dict(zip(*(part.tolist() for part in np.unique(split.boxes.category_ids, return_counts=True))))
    counts = [found.get(category.id, 0) for category in split.categories]
    order = sorted(range(len(counts)), key=lambda index: -counts[index])
    shown = ", ".join(f"{split.categories[index].name} {counts[index]}" for index in order[:SHOWN])
    more = ", ..." if len(order) > SHOWN else ""
    empty = [category.name for category, count in zip(split.categories, counts) if count == 0]
    without = f"; {len(empty)} without boxes" + (f": {', '.join(empty[:SHOWN])}" if empty else "")
    return f"{len(counts)}: {shown}{more}{without}" + (", ..." if len(empty) > SHOWN else "")


def _turned(turned: tuple[int, int]) -> str:
    upright, stored = turned
    if not upright + stored:
        return "no turned photo"
    total = _count(upright + stored, "turned photo")
    return f"{total}: {upright} with an entry as it is turned, {stored} with one as it is stored"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _range(sizes: np.ndarray) -> str:
    """The smallest and the largest of some (width, height), by area."""
    order = np.argsort(sizes[:, 0].astype(np.float64) * sizes[:, 1], kind="stable")
    small, large = (f"{sizes[index][0]:g}x{sizes[index][1]:g}" for index in (order[0], order[-1]))
    return f"of {small}" if small == large else f"from {small} to {large}"
