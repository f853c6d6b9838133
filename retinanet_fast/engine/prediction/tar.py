"""Pictures in tar files, read where they lie: an uncompressed tar holds each file in one piece."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

from retinanet_fast.engine.errors import InputError, one_line
from retinanet_fast.engine.prediction.draw import FORMATS

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def is_tar(path: Path) -> bool:
    """By the file's name."""
    return path.name.lower().endswith(SUFFIXES)


def members(path: Path) -> Iterator[tuple[str, int, int]]:
    """Name, first byte and number of bytes of each picture in a tar, in its order; only headers are read.

    Raises:
        InputError: missing, damaged, compressed, or without pictures.
    """
    count = 0
    try:
        with tarfile.open(path, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
                if member.isfile() and os.path.splitext(member.name)[1].lower() in FORMATS:
                    count += 1
                    yield member.name, member.offset_data, member.size
    except tarfile.TarError as error:
        raise InputError(f"{path}: expected a whole, uncompressed tar file: {one_line(error)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if count == 0:
        raise InputError(f"{path}: no pictures in this tar file ({', '.join(sorted(FORMATS))})")
