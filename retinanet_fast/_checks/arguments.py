"""The checks that several ops share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

IntLike = int | torch.SymInt
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def check_value(condition: bool | torch.SymBool, message: Callable[[], str]) -> None:
    """A ValueError with ``message`` unless ``condition``, which may be symbolic."""
    if isinstance(condition, torch.SymBool):
        torch._check_value(condition, message)
    elif not condition:
        raise ValueError(message())


def check_type(condition: bool, message: Callable[[], str]) -> None:
    """A TypeError with ``message`` unless ``condition``."""
    if not condition:
        raise TypeError(message())


def shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))


def check_shape(tensor: Tensor, expected: Sequence[IntLike], message: Callable[[], str]) -> None:
    """A ValueError unless ``tensor`` has the expected shape."""
    check_value(tensor.dim() == len(expected), message)
    for size, wanted in zip(tensor.shape, expected, strict=True):
        check_value(size == wanted, message)


def check_floating(op: str, argument: str, tensor: Tensor) -> None:
    check_type(
        tensor.dtype in _FLOATING,
        lambda: f"{op}: expected {argument} of float64, float32, float16 or bfloat16, got {tensor.dtype}",
    )


def check_labels(op: str, argument: str, labels: Tensor) -> None:
    check_type(
        labels.dtype in (torch.int64, torch.int32),
        lambda: f"{op}: expected {argument} of int64 or int32, got {labels.dtype}",
    )


def check_integer(op: str, argument: str, tensor: Tensor) -> None:
    check_type(
        tensor.dtype in INTEGERS, lambda: f"{op}: expected {argument} of an integer dtype, got {tensor.dtype}"
    )


def check_boxes(op: str, argument: str, boxes: Tensor) -> None:
    check_rows(op, argument, "N", boxes)
    check_floating(op, argument, boxes)


def check_rows(op: str, argument: str, rows: str, boxes: Tensor) -> None:
    """Any number of rows of four, called ``rows`` in the message."""

    def message() -> str:
        return f"{op}: expected {argument} [{rows}, 4], got {shape(boxes)}"

    check_value(boxes.dim() == 2, message)
    check_value(boxes.shape[1] == 4, message)


def check_same_device(op: str, argument: str, tensor: Tensor, like: Tensor) -> None:
    check_value(
        tensor.device == like.device,
        lambda: f"{op}: expected {argument} on {like.device}, got {tensor.device}",
    )


def check_same_dtype(op: str, argument: str, tensor: Tensor, like: Tensor) -> None:
    check_type(
        tensor.dtype == like.dtype,
        lambda: f"{op}: expected {argument} of dtype {like.dtype}, got {tensor.dtype}",
    )


def check_box_weights(op: str, argument: str, weights: Sequence[float]) -> None:
    check_value(
        len(weights) == 4,
        lambda: f"{op}: expected 4 {argument} (x, y, width, height), got {len(weights)}",
    )
    check_value(
        all(weight != 0 for weight in weights),
        lambda: f"{op}: expected {argument} other than 0, got {list(weights)}",
    )


def check_thresholds(op: str, high_threshold: float, low_threshold: float) -> None:
    check_value(
        low_threshold <= high_threshold,
        lambda: f"{op}: expected low_threshold <= high_threshold, got {low_threshold} > {high_threshold}",
    )


def check_focal(op: str, alpha: float, gamma: float) -> None:
    check_value(
        0 <= alpha <= 1 or alpha == -1, lambda: f"{op}: expected alpha in [0, 1], or -1 for none, got {alpha}"
    )
    check_gamma(op, gamma)


def check_gamma(op: str, gamma: float) -> None:
    check_value(
        math.isfinite(gamma) and gamma >= 0, lambda: f"{op}: expected a finite gamma >= 0, got {gamma}"
    )


def check_reduction(op: str, reduction: str) -> None:
    check_value(
        reduction in ("none", "mean", "sum"),
        lambda: f"{op}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}",
    )
