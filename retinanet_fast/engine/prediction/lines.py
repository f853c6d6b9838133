"""The output: a line of json for each picture, and, made of the lines, COCO's results format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.evaluation.results import Results
from retinanet_fast.engine.files import write_atomically

# Digits after the point: finer than float32 holds for most boxes and scores, in half the bytes.
BOX_DIGITS, SCORE_DIGITS = 4, 7


class Detection(msgspec.Struct):
    """One detection."""

    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels of the upright picture
    score: float


class Result(Detection):
    """The same among those of all pictures, as COCO's results format has it, with the picture's name beside."""

    image_id: int
    file_name: str


class Line(msgspec.Struct, omit_defaults=True):
    """What is said of one picture: its detections, or why it cannot be read."""

    file_name: str
    image_id: int
    width: int = 0
    height: int = 0
    detections: list[Detection] | None = None
    error: str = ""


def detections_of(results: Results) -> list[Detection]:
    """The rows of one picture, the best first as the model gives them."""
    boxes = np.round(results.bbox, BOX_DIGITS).tolist()
    scores = np.round(results.score, SCORE_DIGITS).tolist()
    return [Detection(*row) for row in zip(results.category_id.tolist(), map(tuple, boxes), scores)]


def encode(line: Line) -> bytes:
    """The line with its end. Characters that are no Unicode, as Linux' names may have, are written as ``\\udcXX``."""
    try:
        return msgspec.json.encode(line) + b"\n"
    except UnicodeEncodeError:
        names = {name: _printable(getattr(line, name)) for name in ("file_name", "error")}
        return encode(msgspec.structs.replace(line, **names))


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file.

    Raises:
        InputError: one is not what this program writes.
    """
    decoder = msgspec.json.Decoder(Line)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InputError(f"{path}: line {number}: not a prediction's: {one_line(error)}") from None


def write_coco(lines: Path, path: Path) -> tuple[int, int]:
    """Write the detections of a file of lines as COCO's results, a picture at a time.

    Returns:
        How many pictures were read and how many could not be.
    """
    counts = [0, 0]
    encoder = msgspec.json.Encoder()

    def write(file: IO[bytes]) -> None:
        between = b"[\n"
        for line in read_lines(lines):
            counts[line.detections is None] += 1
            results = [
                Result(found.category_id, found.bbox, found.score, line.image_id, line.file_name)
                for found in line.detections or ()
            ]
            if results:
                file.write(between + encoder.encode_lines(results)[:-1].replace(b"\n", b",\n"))
                between = b",\n"
        file.write(b"[]\n" if between == b"[\n" else b"\n]\n")

    write_atomically(path, write)
    return counts[0], counts[1]


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
