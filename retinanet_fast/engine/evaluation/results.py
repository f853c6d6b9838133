"""Detections on a split as arrays, and COCO's results format, in which other programs read and write them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from retinanet_fast.engine.data.json_values import is_integer, is_number, load_json
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.files import write_atomically
from retinanet_fast.structures import Detections

# Detections written in one go: an object of each takes a kilobyte.
AT_ONCE = 10_000
COLUMNS = ("image_id", "category_id", "bbox", "score")


@dataclass(frozen=True, eq=False)
class Results:
    """N detections, under the names of COCO's results format."""

    image_id: np.ndarray  # [N] int64
    category_id: np.ndarray  # [N] int64
    bbox: np.ndarray  # [N, 4] float64: x, y, width, height in pixels
    score: np.ndarray  # [N] float64

    def __len__(self) -> int:
        return len(self.score)

    def by_image(self) -> Results:
        """Ordered by image id; an image's own detections stay in their order."""
        return self.rows(np.argsort(self.image_id, kind="stable"))

    def rows(self, which: np.ndarray) -> Results:
        """The rows of an index or of a mask."""
        return Results(self.image_id[which], self.category_id[which], self.bbox[which], self.score[which])

    def to_list(self) -> list[dict[str, Any]]:
        """One object per detection, as the format's json has them."""
        columns = (getattr(self, name).tolist() for name in COLUMNS)
        return [dict(zip(COLUMNS, row)) for row in zip(*columns)]


@dataclass
class Detected:
    """Detections on a split, and the ids of the images that were read; both in the order of the ids.

    Attributes:
        epoch: of the run, after which they were made; 0 where that is not known.
    """

    results: Results
    image_ids: list[int]
    images_per_second: float
    epoch: int = 0


def from_list(entries: Sequence[dict[str, Any]]) -> Results:
    """The inverse of ``Results.to_list``; other keys are left out."""
    return Results(
        np.array([entry["image_id"] for entry in entries], dtype=np.int64),
        np.array([entry["category_id"] for entry in entries], dtype=np.int64),
        np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4),
        np.array([entry["score"] for entry in entries], dtype=np.float64),
    )


def from_batch(
    found: Detections,
    image_ids: list[int],
    ids: list[int | None],
    pictures: Sequence[tuple[tuple[int, int], int]] = (),
) -> Results:
    """A batch's detections, in the order of its images, each image's in the model's.

    Args:
        found: on the CPU.
        image_ids: of the batch's images.
        ids: ``ids[label - 1]`` is a label's category, or None to drop it. Label 0 is the background: the model has a
            column for it, which it learns never to predict.
        pictures: where images were decoded at a part of their size, of each its whole (width, height) and the number
            of its pixels that one of the model's stands for, in one direction.
    """
    labels = found.labels.numpy()
    real = np.arange(labels.shape[1]) < found.counts.numpy()[:, None]
    known = np.array([False, *(category_id is not None for category_id in ids)])
    image, place = np.nonzero(real & known[np.where(real, labels, 0)])
    corners = found.boxes.numpy()[image, place].astype(np.float64)
    if any(scale > 1 for _, scale in pictures):
        scales = np.array([[scale] for _, scale in pictures])[image]
        sizes = np.array([size * 2 for size, _ in pictures])[image]
        corners = np.where(scales > 1, np.minimum(corners * scales, sizes), corners)
    return Results(
        np.array(image_ids, dtype=np.int64)[image],
        np.array([0, *(category_id or 0 for category_id in ids)], dtype=np.int64)[labels[image, place]],
        np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1),
        found.scores.numpy()[image, place].astype(np.float64),
    )


def pack(outputs: Sequence[dict[str, Tensor]]) -> Detections:
    """One dict per image, as torchvision's detectors return them, at fixed size."""
    counts = [len(output["scores"]) for output in outputs]
    padded = {
        key: torch.nn.utils.rnn.pad_sequence([output[key] for output in outputs], batch_first=True)
        for key in ("boxes", "scores", "labels")
    }
    return Detections(**padded, counts=torch.tensor(counts, device=padded["boxes"].device))


def concatenate(parts: Sequence[Results]) -> Results:
    """The parts' detections, one part after the other."""
    parts = [*parts, from_list([])]  # none at all is no detection
    return Results(*(np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS))


def save_detected(path: Path, found: Detected) -> None:
    """Write detections as arrays (numpy's npz), to the bit, whole or not at all: the columns of ``Results``, the ids of
    the images that were read, the epoch and the images per second."""
    columns = {name: getattr(found.results, name) for name in COLUMNS}
    write_atomically(
        path,
        lambda file: np.savez(
            file,
            **columns,
            image_ids=np.array(found.image_ids, dtype=np.int64),
            epoch=np.int64(found.epoch),
            images_per_second=np.float64(found.images_per_second),
        ),
    )


def load_detected(path: Path) -> Detected:
    """What ``save_detected`` wrote.

    Raises:
        InputError: there is no such file, or it holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            results = Results(*(arrays[name] for name in COLUMNS))
            if {len(getattr(results, name)) for name in COLUMNS} != {len(results)}:
                raise ValueError("its columns differ in length")
            return Detected(
                results,
                arrays["image_ids"].tolist(),
                float(arrays["images_per_second"]),
                int(arrays["epoch"]),
            )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: an evaluation writes it while training") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: expected detections as an evaluation writes them: {one_line(error)}"
        ) from None


def write_results(path: Path, results: Results) -> None:
    """Write detections as json in COCO's results format, whole or not at all; every bit of a float is kept."""

    def write(file: IO[bytes]) -> None:
        file.write(b"[")
        for first in range(0, len(results), AT_ONCE):
            part = results.rows(np.arange(first, min(first + AT_ONCE, len(results))))
            file.write(b",\n" * (first > 0) + msgspec.json.encode(part.to_list())[1:-1])
        file.write(b"]\n")

    write_atomically(path, write)


def read_results(path: Path, split: Split) -> Results:
    """Detections from a file in COCO's results format.

    Raises:
        InputError: an entry is not a detection on an image of the split; it names file and entry.
    """
    entries = load_json(path)
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of detections, got a {type(entries).__name__}")
    image_ids = set(split.images.ids.tolist())
    for index, entry in enumerate(entries):
        where = f"{path}: [{index}]"
        if not isinstance(entry, dict):
            raise InputError(f"{where}: expected an object, got {entry!r}")
        if not is_integer(entry.get("image_id")) or entry["image_id"] not in image_ids:
            raise InputError(f"{where}: image_id {entry.get('image_id')} is not in {split.annotations}")
        category_id = entry.get("category_id")
        if not is_integer(category_id) or abs(category_id) >= 2**63 or not is_number(entry.get("score")):
            raise InputError(f"{where}: expected a category_id and a score")
        bbox = entry.get("bbox")
        if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_number(value) for value in bbox):
            raise InputError(f"{where}: expected bbox [x, y, width, height], got {bbox!r}")
    return from_list(entries)
