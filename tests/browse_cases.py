"""Images with an error of each kind, whose names and classes are what a page must not take for its own."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from retinanet_fast.engine.data.split import Box, Boxes, Category, Images, Split
from retinanet_fast.engine.evaluation.results import Results, from_list

WIDTH, HEIGHT = 64, 48
CATEGORIES = [Category(2, "<b>cat</b>"), Category(5, "\"dog\" & 'co'"), Category(9, "never")]
HERE, THERE = (4, 4, 20, 20), (36, 20, 20, 20)  # x, y, width, height
BIG = 2**53 + 1  # not exact as a number of JavaScript
# id, file name, truth (box, category), detections (box, category, score)
IMAGES: list[tuple[int, str, list[Any], list[Any]]] = [
    (11, "plain.png", [(HERE, 2)], [(HERE, 2, 0.9)]),
    (12, "</script><script>window.hacked=1</script>.png", [(HERE, 2), (THERE, 5)], []),
    (
        13,
        '<img src=x onerror="window.hacked=1">.png',
        [(HERE, 5)],
        [(HERE, 5, 0.95), (HERE, 5, 0.7), (THERE, 2, 0.8)],
    ),
    (14, "100%#?&amp;.png", [(HERE, 2)], [(HERE, 5, 0.6)]),
    (BIG, "ünï/cödé.png", [(THERE, 5)], [((44, 20, 20, 20), 5, 0.55)]),
    (16, "empty.png", [], []),
    (17, "crowd.png", [(HERE, 5)], [(HERE, 5, 0.9), (THERE, 2, 0.1)]),
]
CROWD = 17
# At score 0.5: two missed; a background of 0.8 and a duplicate of 0.7; a classification of 0.6; a localisation of 0.55.
WORST_FIRST = [12, 13, 14, BIG, 11, 16, 17]


def split_of(folder: Path) -> Split:
    """The split, whose pictures are written to ``folder``."""
    owners, boxes = [], []
    for index, (image_id, name, truth, _) in enumerate(IMAGES):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT), (40 * index, 90, 120)).save(file)
        owners += [index] * len(truth)
        boxes += [Box(*box, category, 400.0, image_id == CROWD) for box, category in truth]
    images = Images.of(((image_id, name, WIDTH, HEIGHT) for image_id, name, _, _ in IMAGES), folder)
    return Split.of(folder / "some.json", CATEGORIES, images, Boxes.of(boxes), np.array(owners))


def results() -> Results:
    """The detections, the last image's first."""
    rows = [
        {"image_id": image_id, "bbox": list(box), "category_id": category, "score": score}
        for image_id, _, _, found in reversed(IMAGES)
        for box, category, score in found
    ]
    return from_list(rows)


class Parsed(HTMLParser):
    """What a page consists of: its tags with their attributes, and the text of each script by its id."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.title = ""
        self._within = "-"
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._within = (
            dict(attrs).get("id") or "" if tag == "script" else ("title" if tag == "title" else "-")
        )

    def handle_endtag(self, tag: str) -> None:
        self._within = "-"

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
        elif self._within != "-":
            self.scripts[self._within] = self.scripts.get(self._within, "") + data

    def content(self) -> Any:
        """The json that the page holds."""
        return json.loads(self.scripts["page"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that the page holds, by name."""
        kinds = {str(attrs["id"]): attrs["data-dtype"] for tag, attrs in self.tags if "data-dtype" in attrs}
        return {
            name: np.frombuffer(
                base64.b64decode(self.scripts.get(name, "")), np.dtype(kind).newbyteorder("<")
            )
            for name, kind in kinds.items()
        }
