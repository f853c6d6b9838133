"""What an accelerated head returns: its levels as they lie, in the place of one concatenated tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet_fast.reference._common import flatten_level

__all__ = ["HeadLevels", "level_outputs", "split_outputs", "split_rows", "whole_outputs"]


class HeadLevels:
    """The outputs ``[B, K * C, H, W]`` of a head's levels, standing for torchvision's tensor ``[B, A, C]``.

    ``size(dim)`` and ``split(sizes, dim)`` are what torchvision's RetinaNet calls in evaluation, and neither makes
    that tensor. Whatever else is asked of it (an attribute, an operator, a function of torch) is asked of the tensor,
    which is then made, once, as torchvision makes it.
    """

    def __init__(self, levels: Sequence[Tensor], values: int) -> None:
        self.levels = list(levels)
        self.values = values  # C, the values of one anchor
        self._tensor: Tensor | None = None

    def tensor(self) -> Tensor:
        """The levels one after the other, ``[B, A, C]``, in the order level, y, x, k."""
        if self._tensor is None:
            self._tensor = torch.cat([flatten_level(level, self.values) for level in self.levels], dim=1)
        return self._tensor

    def size(self, dim: int | None = None) -> Any:
        """``size`` of the tensor: torchvision reads the number of anchors, ``size(1)``."""
        if dim in (1, -2):
            return sum(self._num_anchors())
        return self.tensor().size() if dim is None else self.tensor().size(dim)

    def split(self, sizes: Any, dim: int = 0) -> Sequence[Tensor]:
        """``split`` of the tensor; where it would part the levels, the levels as they lie, ``[B, K * C, H, W]``."""
        if dim in (1, -2) and sizes == self._num_anchors():
            return tuple(self.levels)
        return self.tensor().split(sizes, dim)

    def _num_anchors(self) -> list[int]:
        return [level.shape[1] // self.values * level.shape[2] * level.shape[3] for level in self.levels]

    def __getattr__(self, name: str) -> Any:
        # Names with underscores are asked for by copy, pickle and the like before there are any levels.
        if name.startswith("_") or "levels" not in self.__dict__:
            raise AttributeError(f"'HeadLevels' object has no attribute {name!r}")
        return getattr(self.tensor(), name)

    def __repr__(self) -> str:
        return f"HeadLevels({[list(level.shape) for level in self.levels]}, values={self.values})"

    def __len__(self) -> int:
        return len(self.tensor())

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.tensor())

    def __getitem__(self, index: Any) -> Tensor:
        return self.tensor()[index]

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], _: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = (_with_tensors(part) for part in (args, kwargs or {}))
        return function(*args, **kwargs)


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: HeadLevels, *others: Any) -> Any:
        return getattr(self.tensor(), name)(*_with_tensors(others))

    apply.__name__ = name
    return apply


_BINARY = ("add", "sub", "mul", "truediv", "pow", "matmul", "radd", "rsub", "rmul", "rtruediv")
for _name in (*_BINARY, "neg", "abs", "eq", "ne", "lt", "le", "gt", "ge"):
    setattr(HeadLevels, f"__{_name}__", _operator(f"__{_name}__"))
HeadLevels.__hash__ = object.__hash__  # type: ignore[method-assign]


def _with_tensors(value: Any) -> Any:
    """``value`` with the tensor in the place of each ``HeadLevels`` in lists, tuples and dicts."""
    if isinstance(value, HeadLevels):
        return value.tensor()
    if type(value) in (list, tuple):
        return type(value)(_with_tensors(part) for part in value)
    if type(value) is dict:
        return {key: _with_tensors(part) for key, part in value.items()}
    return value


def level_outputs(logits: Any, deltas: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and deltas, each the whole output of a head, as the ops' lists of levels.

    Two ``HeadLevels`` are their levels. Tensors ``[B, A, C]`` are one level of A cells with one anchor each,
    ``[B, C, A, 1]``, which is a view.
    """
    if isinstance(logits, HeadLevels) and isinstance(deltas, HeadLevels):
        return logits.levels, deltas.levels
    return [_as_level(_with_tensors(logits))], [_as_level(_with_tensors(deltas))]


def _as_level(rows: Tensor) -> Tensor:
    return rows.permute(0, 2, 1).unsqueeze(-1)


def split_outputs(logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Levels of logits and deltas, some ``[B, A_l, C]``, others as they lie, as the ops' lists of levels."""
    if all(level.dim() == 4 for level in (*logits, *deltas)):
        return list(logits), list(deltas)
    rows = split_rows(logits, deltas)
    return [_as_level(level) for level in rows[0]], [_as_level(level) for level in rows[1]]


def split_rows(logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The same as torchvision has them, ``[B, A_l, C]`` and ``[B, A_l, 4]``."""
    delta_rows = [flatten_level(level, 4) if level.dim() == 4 else level for level in deltas]
    logit_rows = [
        flatten_level(level, level[0].numel() // rows.shape[1]) if level.dim() == 4 else level
        for level, rows in zip(logits, delta_rows, strict=True)
    ]
    return logit_rows, delta_rows


def whole_outputs(head_outputs: dict[str, Any]) -> dict[str, Any]:
    """A head's outputs as torchvision has them, ``[B, A, C]``."""
    result: dict[str, Any] = _with_tensors(dict(head_outputs))
    return result
