"""Reads the json of a data set, hundreds of megabytes of it, without keeping what nobody asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from retinanet_fast.engine.data.json_values import content_of, parse
from retinanet_fast.engine.errors import InputError

T = TypeVar("T")


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
        self.path = path
        content = content_of(path)
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
    decode = msgspec.json.Decoder(kind).decode

    def of(entry: Any) -> T | None:
        try:
            return decode(entry) if isinstance(entry, msgspec.Raw) else msgspec.convert(entry, kind)
        except (msgspec.DecodeError, RecursionError, ValueError, OverflowError):
            return None

    return of


def plain(entry: Any) -> Any:
    """An entry as Python's json makes it; a text that says so where it cannot."""
    try:
        return json.loads(bytes(entry)) if isinstance(entry, msgspec.Raw) else entry
    except RecursionError:
        return "an entry that is nested too deeply"
    except ValueError:  # not UTF-8, or a number of thousands of digits, which msgspec passed over
        return "an entry that is not json"


def _by_python(path: Path, content: bytes, keys: Sequence[str]) -> dict[str, list[Any]]:
    document = parse(path, content)
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a json object, got a {type(document).__name__}")
    for key in keys:
        if not isinstance(document.get(key), list):
            raise InputError(f"{path}: expected a list {key!r}, got {type(document.get(key)).__name__}")
    return {key: document[key] for key in keys}
