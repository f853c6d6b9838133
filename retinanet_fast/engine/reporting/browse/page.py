"""Writes the page: one html file that holds everything but, usually, the pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from retinanet_fast.engine.data.split import Split, index_of
from retinanet_fast.engine.evaluation.analysis import MEANINGS
from retinanet_fast.engine.evaluation.error_kinds import KINDS, error_kinds
from retinanet_fast.engine.evaluation.results import Results
from retinanet_fast.engine.files import write_text
from retinanet_fast.engine.reporting.browse.arrays import best_score, pack, worst_first
from retinanet_fast.engine.reporting.browse.photos import folder_address, thumbnails, turns_of

TEXTS = {
    "correct": "the right category, well placed",
    **MEANINGS,
    "ignored": "on a crowd, or beyond the 100 best of its category on an image: it does not count",
}
# One after the other they are one script.
SCRIPTS = ("arrays", "count", "state", "picture", "grid", "filters", "viewer", "main")
NAMES = {"u1": "uint8", "u2": "uint16", "u4": "uint32", "i4": "int32", "i8": "int64"}


@dataclass
class BrowsePage:
    """The page of the detections on a split.

    Attributes:
        split: the images that were read, with their boxes.
        results: on images and in categories of the split alone.
        embed: None, and the page refers to the picture files; or a number, and it holds that many images alone, the
            worst, with small pictures of them, so that it can be sent.
        orientation: which way up the pictures were read, as a recipe has it.
    """

    title: str
    split: Split
    results: Results
    embed: int | None = None
    orientation: str = "auto"

    def write(self, path: Path) -> float:
        """Write the page; returns the score at which it opens, that of the best F1."""
        found = error_kinds(self.split, self.results)
        score = best_score(self.split, self.results, found)
        split, results, small = self.split, self.results, None
        turns = np.zeros(len(split.images), dtype=np.uint8)
        if self.embed is None:
            turns = turns_of(split.images, self.orientation)
        else:
            chosen = np.sort(worst_first(split, results, found, score)[: self.embed])
            split = split.of_images(chosen)
            results = results.rows(index_of(split.images.ids, results.image_id) >= 0)
            found = error_kinds(split, results)
            small, turns = thumbnails(split.images, self.orientation), turns[chosen]
        content = {
            "kinds": [{"name": name, "meaning": TEXTS[name]} for name in (*KINDS, "missed")],
            "categories": [[category.id, category.name] for category in split.categories],
            "names": split.images.names[:],
            "folder": folder_address(split.images.folder, path),
            "score": score,
            "thumbnails": small,
        }
        summary = self._summary(len(split.images), split.count_boxes(), len(results))
        write_text(path, _page(self.title, summary, content, pack(split, results, found, turns)))
        return score

    def _summary(self, images: int, boxes: int, detections: int) -> str:
        whole = len(self.split.images)
        what = f"{images:,} images" if images == whole else f"the {images:,} worst of {whole:,} images"
        return f"{self.split.annotations}: {what}, {boxes:,} boxes, {detections:,} detections"


def _page(title: str, summary: str, content: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    files = resources.files(__package__)
    script = "\n".join((files / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS)
    return Template((files / "browse.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(title),
        summary=html.escape(summary),
        style=(files / "browse.css").read_text(encoding="utf-8"),
        # A "<" in a name would begin a tag; json has another way to write it.
        page=json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
        arrays="\n".join(_array(name, values) for name, values in arrays.items()),
        script=script,
        # The browser runs this script alone, whatever the names hold.
        script_hash="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )


def _array(name: str, values: np.ndarray) -> str:
    kind = NAMES[values.dtype.newbyteorder("=").str[1:]]
    text = base64.b64encode(values.tobytes()).decode("ascii")
    return f'<script type="application/octet-stream" id="{name}" data-dtype="{kind}">{text}</script>'
