"""Pickles of numpy arrays, as detectron2 publishes its weights, read without running what a pickle may ask for."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from typing import Any, BinaryIO

import numpy as np

__all__ = ["load_numpy_pickle"]

ARRAYS_ONLY = "a file of weights holds arrays, lists, dicts, numbers and text alone"


class _NdarrayType:
    """Stands for ``numpy.ndarray`` where a pickle names it: a pickle must not call the type, with sizes of its own."""


def _reconstruct(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    """What numpy's own pickles begin an array with: an empty one, which its state then fills."""
    if kind is not _NdarrayType or tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"an array that does not begin empty; {ARRAYS_ONLY}")
    return np.empty(0, np.int8)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Bytes as pickles of protocol 2 hold them."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"text in {encoding!r}; {ARRAYS_ONLY}")
    return text.encode("latin1")


def _allowed() -> dict[tuple[str, str], Any]:
    found: dict[tuple[str, str], Any] = {
        ("numpy", "ndarray"): _NdarrayType,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _encode_latin1,
        ("collections", "OrderedDict"): OrderedDict,
    }
    # The private modules of numpy 1 and of numpy 2.
    for core in ("numpy.core", "numpy._core"):
        found[f"{core}.multiarray", "_reconstruct"] = _reconstruct
        found[f"{core}.multiarray", "scalar"] = _scalar
    return found


def _scalar(dtype: Any, content: bytes | str) -> Any:
    data = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(dtype, np.dtype) or dtype.hasobject:
        raise pickle.UnpicklingError(f"a scalar of {dtype!r}; {ARRAYS_ONLY}")
    return np.frombuffer(data, dtype, count=1)[0]


_ALLOWED = _allowed()


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; {ARRAYS_ONLY}") from None


def load_numpy_pickle(file: BinaryIO) -> Any:
    """The content of a pickle of numpy arrays and plain values.

    Of the functions and classes that a pickle may name, only those that numpy's own pickles need are known, and each
    is a stand-in that makes an array from the bytes in the file: nothing of the file is run, and no array is larger
    than the file.

    Raises:
        pickle.UnpicklingError: it names anything else.
    """
    return _ArrayUnpickler(file, encoding="latin1").load()
