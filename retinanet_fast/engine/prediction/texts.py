"""Stand-in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class Texts(Sequence[str]):
    """N texts in one array of bytes."""

    def __init__(self, content: np.ndarray, ends: np.ndarray) -> None:
        self.content = content  # [bytes] uint8
        self.ends = ends  # [N] int64, in bytes

    @classmethod
    def of(cls, texts: Iterable[str]) -> Texts:
        """Pack texts, in their order."""
        content, ends = bytearray(), []
        for text in texts:
            content += text.encode("utf-8", "surrogatepass")
            ends.append(len(content))
        return cls(np.frombuffer(bytes(content), dtype=np.uint8), np.array(ends, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = int(self.ends[index - 1]) if index > 0 else 0
        return self.content[start : int(self.ends[index])].tobytes().decode("utf-8", "surrogatepass")

    def rows(self, which: np.ndarray) -> Texts:
        """The texts of an index or of a mask."""
        numbers = np.arange(len(self))[which]
        return Texts.of(self[int(i)] for i in numbers)
