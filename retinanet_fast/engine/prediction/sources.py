"""What to detect on, as it is named on the command line: files, folders, patterns, lists, tars, videos."""

from __future__ import annotations

import glob
import itertools
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.prediction import tar, video
from retinanet_fast.engine.prediction.draw import FORMATS
from retinanet_fast.engine.prediction.pictures import FILE, TAR, VIDEO, Gathered, Holder, Pictures

STDIN = "-"
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def list_pictures(words: Iterable[str], out: Path | None = None, stdin: IO[bytes] | None = None) -> Pictures:
    """The pictures that the words name, in their order. No picture is opened; a file that is named is taken, there or
    not.

    Args:
        words: each a file, an uncompressed tar of pictures, a video, a folder (with its subfolders, by name), a pattern
            (``*``, ``?``, ``[..]``, ``**``, and ``{000..099}``), ``@FILE`` with one of the former a line, or ``-`` for
            such lines from the standard input.
        out: a folder in which none is looked for.

    Raises:
        InputError: a folder without pictures, a pattern that nothing fits, a list, tar or video that cannot be read.
    """
    gathered = Gathered()
    for word in words:
        for name in _expanded(word, stdin):
            _add(gathered, name, out)
    if len(gathered) == 0:
        raise InputError("no pictures: the lists that were given are empty")
    return gathered.pictures()


def _expanded(word: str, stdin: IO[bytes] | None) -> Iterator[str]:
    """The files and folders of a word, in their order."""
    if word == STDIN:
        yield from _lines(stdin or sys.stdin.buffer)
    elif os.path.lexists(word):
        yield word
    elif word.startswith("@"):
        try:
            with open(word[1:], "rb") as file:
                yield from _lines(file)
        except OSError as error:
            raise InputError(f"{word[1:]}: cannot be read as a list of pictures: {error.strerror}") from None
    else:
        for name in _ranges(word):
            yield from _fitting(name)


def _lines(file: IO[bytes]) -> Iterator[str]:
    return (os.fsdecode(name) for line in file if (name := line.rstrip(b"\r\n")))


def _ranges(word: str) -> Iterator[str]:
    """The words that ``{first..last}`` stands for, as in a shell: numbers as wide as they are written."""
    parts = RANGE.split(word)  # text, first, last, text, first, last, ..., text
    numbers = []
    for first, last in zip(parts[1::3], parts[2::3]):
        width = max(len(first), len(last)) if first.startswith("0") else 0
        numbers.append([f"{number:0{width}}" for number in range(int(first), int(last) + 1)])
    for chosen in itertools.product(*numbers):
        yield parts[0] + "".join(number + text for number, text in zip(chosen, parts[3::3]))


def _fitting(pattern: str) -> Iterator[str]:
    if not glob.has_magic(pattern) or os.path.lexists(pattern):
        yield pattern
        return
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise InputError(f"{pattern}: no file fits this pattern")
    yield from found


def _add(gathered: Gathered, name: str, out: Path | None) -> None:
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix in FORMATS:
        gathered.add(Holder(FILE, Path()), name)
    elif path.is_dir():
        _add_folder(gathered, path, out)
    elif tar.is_tar(path):
        for member, offset, size in tar.members(path):
            gathered.add(Holder(TAR, path), member, offset, size)
    elif suffix in video.SUFFIXES:
        for number, time in enumerate(video.frame_times(path).tolist(), 1):
            gathered.add(Holder(VIDEO, path), f"{number:06d}", time)
    else:
        gathered.add(Holder(FILE, Path()), name)


def _add_folder(gathered: Gathered, folder: Path, out: Path | None) -> None:
    before, holder = len(gathered), Holder(FILE, folder)
    left_out = out.resolve() if out is not None and out.resolve() != folder.resolve() else None
    for parent, folders, files in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if Path(parent, name).resolve() != left_out)
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in FORMATS:
                gathered.add(holder, Path(parent, name).relative_to(folder).as_posix())
    if len(gathered) == before:
        raise InputError(f"{folder}: no pictures in this folder ({', '.join(sorted(FORMATS))})")
