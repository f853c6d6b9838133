"""One program at a time in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from retinanet_fast.engine.errors import InputError


@contextmanager
def only_program(folder: Path) -> Iterator[None]:
    """Be the only program that writes to a folder, which is made where it is not there, for the time of the block. The
    system lets go of the lock when its holder ends, however it ends.

    Raises:
        InputError: another program has the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            f"{folder}: another program is writing there: wait for it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
