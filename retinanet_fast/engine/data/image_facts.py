"""Sizes and faults of image files: found out by worker processes, once, and remembered."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from PIL import Image

from retinanet_fast.engine.data.decode import MOST_PIXELS, ORIENTATION, check_pixels
from retinanet_fast.engine.data.remembered import ImageFacts, Known, recall, remember
from retinanet_fast.engine.data.workers import start_worker, starting_workers
from retinanet_fast.engine.errors import ProcessLost, one_line
from retinanet_fast.engine.reporting.progress import Progress, say
from retinanet_fast.engine.threads import available_cores

# Processes are not started for fewer files.
FEW = 64
CHUNK = 16  # files that a process is given at a time


def image_facts(
    paths: Sequence[Path], label: str, decode: bool = False, workers: int | None = None
) -> Iterator[tuple[int, ImageFacts]]:
    """The facts of image files, each with its index, folder by folder. Opened are those alone that are not known, or
    have changed; a look that is broken off is remembered as far as it went.

    Args:
        label: what the progress bar says.
        decode: decode all pixels, too.
        workers: processes that open files; 0 opens them here. By default one for each core.

    Raises:
        ProcessLost: a process was killed.
    """
    folders: dict[Path, list[int]] = {}
    for index, path in enumerate(paths):
        folders.setdefault(path.parent, []).append(index)
    progress, done, writable = Progress(label, len(paths)), 0, True
    with _pool(available_cores() if workers is None else workers, len(paths)) as pool:
        for folder, indices in folders.items():
            known = recall(folder)
            new: dict[str, Known] = {}
            try:
                for index, facts in _of_folder(folder, indices, paths, known, new, decode, pool):
                    yield index, facts
                    done += 1
                    if progress.due():
                        progress.draw(done)
            finally:
                if new and writable:
                    writable = _write(folder, {**known, **new})
    progress.close()


def _of_folder(
    folder: Path,
    indices: list[int],
    paths: Sequence[Path],
    known: dict[str, Known],
    new: dict[str, Known],
    decode: bool,
    pool: Executor | None,
) -> Iterator[tuple[int, ImageFacts]]:
    """The facts of a folder's files; what was found out is added to ``new``."""
    unknown: list[tuple[int, os.stat_result]] = []
    for index in indices:
        try:
            stat = os.stat(paths[index])
        except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
            missing = isinstance(error, FileNotFoundError)
            yield index, ImageFacts(0, 0, fault="no such image" if missing else one_line(error))
            continue
        entry = known.get(paths[index].name)
        if (
            entry is not None
            and (entry.length, entry.mtime_ns) == (stat.st_size, stat.st_mtime_ns)
            and (entry.facts.decoded or not decode)
        ):
            yield index, entry.facts
        else:
            unknown.append((index, stat))
    look = partial(look_at, decode=decode)
    files = [str(paths[index]) for index, _ in unknown]
    if pool is None or len(files) < FEW:
        found: Iterator[ImageFacts] = map(look, files)
    else:
        with starting_workers():
            found = pool.map(look, files, chunksize=CHUNK)
    for (index, stat), facts in zip(unknown, _unbroken(found)):
        new[paths[index].name] = Known(stat.st_size, stat.st_mtime_ns, facts)
        yield index, facts


def look_at(path: str, decode: bool) -> ImageFacts:
    """Open an image file."""
    width, height = 0, 0
    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if decode:
                # A huge JPEG can be decoded in part, and so it is when a smaller image will do.
                if picture.format == "JPEG" and width * height > MOST_PIXELS:
                    picture.draft(None, (1, 1))
                check_pixels(picture)
                picture.load() if picture.mode == "RGB" else picture.convert("RGB")
            return ImageFacts(width, height, _turn(picture), decoded=decode)
    except Exception as error:  # Pillow raises many kinds on a file that is not an image
        return ImageFacts(width, height, fault=f"not a readable image: {one_line(error)}", decoded=decode)


def _turn(picture: Image.Image) -> int:
    """EXIF's orientation; 1 where it cannot be read: pixels are then read as stored, too."""
    try:
        # The general method: that of a PNG decodes it, to look for EXIF behind the pixels.
        turn = Image.Image.getexif(picture).get(ORIENTATION, 1)
    except Exception:  # Pillow raises many kinds on EXIF that is damaged
        return 1
    return turn if turn in range(1, 9) else 1


@contextmanager
def _pool(workers: int, files: int) -> Iterator[Executor | None]:
    if workers < 1 or files < FEW:
        yield None
        return
    pool = ProcessPoolExecutor(workers, initializer=start_worker, initargs=(0,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _unbroken(found: Iterator[ImageFacts]) -> Iterator[ImageFacts]:
    try:
        yield from found
    except BrokenProcessPool:
        raise ProcessLost(
            "a process that opens images ended; with less memory in use, or fewer --workers, it may not"
        ) from None


def _write(folder: Path, known: dict[str, Known]) -> bool:
    try:
        remember(folder, known)
    except OSError as error:
        say(
            f"{error.filename or folder}: cannot be written ({error.strerror}): images are opened again next time"
        )
        return False
    return True
