"""Plain json files and their values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypeGuard

from retinanet_fast.engine.errors import InputError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows programs begin with it


def load_json(path: Path) -> Any:
    """The content of a json file.

    Raises:
        InputError: the file cannot be read or is not json.
    """
    return parse(path, content_of(path))


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a json's value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a json's value is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def content_of(path: Path) -> bytes:
    """A file's bytes, without a byte-order mark; an ``InputError`` where it cannot be read."""
    try:
        return path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def parse(path: Path, content: bytes) -> Any:
    """What Python's json makes of the content of a file."""
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise InputError(f"{path}: not json of a data set: nested too deeply") from None
    except ValueError as error:  # not UTF-8, not json, or a number of thousands of digits
        raise InputError(f"{path}: not json: {error}") from None
