"""Draws detections on copies of the pictures, in processes of its own where there are workers."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from torch import Tensor

from retinanet_fast.engine.data.decode import MOST_PIXELS, Decoded, Decoding
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.data.workers import start_worker, starting_workers
from retinanet_fast.engine.errors import InputError, TrainingError, one_line
from retinanet_fast.engine.evaluation.results import Results
from retinanet_fast.engine.prediction.draw import FORMATS, Label, draw_boxes, to_picture
from retinanet_fast.engine.prediction.pictures import FILE, VIDEO, Picture, Pictures
from retinanet_fast.engine.prediction.reading import Reader

QUALITY = 92
# Drawings that may wait for each process, before the detecting waits for them: a video's hold their pixels.
AHEAD = 8


def labels_of(results: Results, categories: list[Category], score: float) -> list[Label]:
    """The detections of a picture that are drawn, those of at least ``score``, the highest last."""
    index_of = {category.id: index for index, category in enumerate(categories)}
    labels = []
    for row in np.argsort(results.score, kind="stable"):
        if results.score[row] >= score:
            x, y, width, height = results.bbox[row].tolist()
            index = index_of[int(results.category_id[row])]
            text = f"{categories[index].name} {results.score[row]:.2f}"
            labels.append(Label((x, y, x + width, y + height), text, index))
    return labels


class DrawnNames:
    """The name of each picture's drawing: its own, with a number before the suffix where several have the same.

    Args:
        out: where the drawings go.

    Raises:
        InputError: a drawing would take the place of a picture.
    """

    def __init__(self, pictures: Pictures, out: Path) -> None:
        self.pictures, self.out = pictures, out
        folder = os.path.realpath(out)
        self._others: dict[int, str] = {}
        used: set[bytes] = set()
        numbers: dict[str, int] = {}  # of names that came again: the number of the last
        for index, picture in enumerate(pictures):
            name = own = self._own(picture)
            while (key := _key(name)) in used:
                numbers[own] = numbers.get(own, 1) + 1
                name = f"{PurePosixPath(own).stem}-{numbers[own]}{PurePosixPath(own).suffix}"
                self._others[index] = name
            used.add(key)
            if picture.kind == FILE and _is_at(picture.path, folder, name):
                raise InputError(f"{out / name}: would be written over: choose another --out, or --no-draw")

    def __getitem__(self, index: int) -> Path:
        return self.out / (self._others.get(index) or self._own(self.pictures[index]))

    @staticmethod
    def _own(picture: Picture) -> str:
        path = PurePosixPath(picture.name)
        if picture.kind == VIDEO:
            return f"{picture.path.stem}-{path.name}.jpg"
        return path.name if path.suffix.lower() in FORMATS else f"{path.stem}.png"


class Drawer:
    """Draws pictures, in place or, where it is given some, in processes; at most ``limit`` wait for these."""

    def __init__(self, decoding: Decoding, executor: Executor | None = None, limit: int = 0) -> None:
        self._decoding, self._executor, self._limit = decoding, executor, limit
        self._pending: deque[Future[None]] = deque()

    def draw(
        self, picture: Picture, decoded: Decoded, labels: list[Label], path: Path
    ) -> Future[None] | None:
        """Write a picture with labels to ``path``; None where that is done already.

        Args:
            decoded: for the model. A frame of a video is sent to the process that draws; any other picture, which it
                can read anew for less, is not. One that is too large to be decoded whole is drawn as the model saw it.
        """
        too_large = decoded.size[0] * decoded.size[1] > MOST_PIXELS
        if too_large:
            labels = [label.reduced(decoded.scale) for label in labels]
        at_hand = decoded.scale == 1 or too_large
        pixels = np.ascontiguousarray(decoded.image.permute(1, 2, 0).numpy()) if at_hand else None
        if self._executor is None:
            draw_picture(picture, pixels, labels, path, self._decoding)
            return None
        while len(self._pending) >= self._limit:
            self._pending.popleft().result()
        sent = pixels if picture.kind == VIDEO or too_large else None
        self._pending.append(self._executor.submit(draw_picture, picture, sent, labels, path, self._decoding))
        return self._pending[-1]


@contextmanager
def drawer(workers: int, decoding: Decoding) -> Iterator[Drawer]:
    """A drawer for the time of the block, with as many processes; 0 draws in place."""
    if workers == 0:
        yield Drawer(decoding)
        return
    # Not a fork, which would have this one's threads and GPU.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(0,))
    try:
        with starting_workers():
            for _ in range(workers):
                executor.submit(os.getpid)  # each starts a process, which is not waited for
        yield Drawer(decoding, executor, AHEAD * workers)
    except BrokenProcessPool as error:
        raise TrainingError(
            f"a process that draws ended: {one_line(error)}; fewer --workers may help"
        ) from None
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def draw_picture(
    picture: Picture,
    pixels: np.ndarray | None,
    labels: Sequence[Label],
    path: Path,
    decoding: Decoding,
) -> None:
    """Write a picture with labels, whole or not at all if the program is killed. It is not forced to the disk: after a
    power cut it may be missing."""
    opened = Image.fromarray(pixels) if pixels is not None else to_picture(_read(picture, decoding))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    draw_boxes(opened, labels).save(temporary, format=FORMATS[path.suffix.lower()], quality=QUALITY)
    os.replace(temporary, path)


def _is_at(path: Path, folder: str, name: str) -> bool:
    if path.is_symlink():
        return os.path.realpath(path) == os.path.join(folder, name)
    return path.name == name and _real(str(path.parent)) == folder


@lru_cache(maxsize=1024)
def _real(folder: str) -> str:
    return os.path.realpath(folder)


def _read(picture: Picture, decoding: Decoding) -> Tensor:
    with closing(Reader(decoding)) as reader:
        return reader.decode(picture).image


def _key(name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=12).digest()
