"""Reads the json of a data set, hundreds of megabytes of it, without keeping what nobody asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from retinanet_fast.engine.errors import InputError

T = TypeVar("T")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows programs begin with it


class Entries:
    """The lists of a json: each entry stays as it is in the file until it is asked for.

    By msgspec, which passes over polygons and key points without making objects of them. It knows no NaN or Infinity,
    which Python's json writes: a file with these, or with faults, is read by Python's json, at many times the cost.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        """Read a file; each of ``keys`` must be a list in it.

        Raises:
            InputError: the file cannot be read, is not json, or lacks a list.
        """
        import msgspec

        self.path = path
        content = _content(path)
        try:
            document = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            lists = {key: msgspec.json.decode(document[key], type=list[msgspec.Raw]) for key in keys}
        except (msgspec.DecodeError, RecursionError, KeyError, ValueError):
            lists = _by_python(path, content, keys)
        self._lists: dict[str, list[Any]] = lists

    def __getitem__(self, key: str) -> list[Any]:
        """The list under a key. Its entries are for ``decoder`` and ``plain``."""
        return self._lists[key]


def decoder(kind: type[T]) -> Callable[[Any], T | None]:
    """A function that makes a ``msgspec.Struct`` of an entry, or None where the entry is not of that kind."""
    import msgspec

    decode = msgspec.json.Decoder(kind).decode

    def of(entry: Any) -> T | None:
        try:
            return decode(entry) if isinstance(entry, msgspec.Raw) else msgspec.convert(entry, kind)
        except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
            return None

    return of


def plain(entry: Any) -> Any:
    """An entry as Python's json makes it; a text that says so where it is nested too deeply for that."""
    import msgspec

    try:
        return json.loads(bytes(entry)) if isinstance(entry, msgspec.Raw) else entry
    except RecursionError:
        return "an entry that is nested too deeply"


def load_json(path: Path) -> Any:
    """The content of a json file.

    Raises:
        InputError: the file cannot be read or is not json.
    """
    return _parse(path, _content(path))


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


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes().removeprefix(BYTE_ORDER_MARK)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise InputError(f"{path}: not json of a data set: nested too deeply") from None
    except ValueError as error:  # not UTF-8, not json, or a number of thousands of digits
        raise InputError(f"{path}: not json: {error}") from None


def _by_python(path: Path, content: bytes, keys: Sequence[str]) -> dict[str, list[Any]]:
    document = _parse(path, content)
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a json object, got a {type(document).__name__}")
    for key in keys:
        if not isinstance(document.get(key), list):
            raise InputError(f"{path}: expected a list {key!r}, got {type(document.get(key)).__name__}")
    return {key: document[key] for key in keys}
