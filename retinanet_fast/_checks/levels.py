"""The checks of a head's levels and of their anchors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from retinanet_fast._checks.arguments import (
    IntLike,
    check_boxes,
    check_floating,
    check_same_device,
    check_same_dtype,
    check_shape,
    check_value,
    shape,
)

_MAX_LEVELS = 8  # kMaxLevels of csrc/kernels


def check_levels(op: str, cls_logits: Sequence[Tensor], bbox_regression: Sequence[Tensor]) -> None:
    levels = len(cls_logits)
    check_value(
        levels > 0 and levels == len(bbox_regression),
        lambda: (
            f"{op}: expected one or more levels of cls_logits and as many of bbox_regression, "
            f"got {levels} and {len(bbox_regression)}"
        ),
    )
    check_value(levels <= _MAX_LEVELS, lambda: f"{op}: expected at most {_MAX_LEVELS} levels, got {levels}")
    check_floating(op, "cls_logits", cls_logits[0])
    check_floating(op, "bbox_regression", bbox_regression[0])
    first = cls_logits[0], bbox_regression[0]
    for level, (logits, deltas) in enumerate(zip(cls_logits, bbox_regression, strict=True)):
        check_same_device(op, "cls_logits", logits, first[0])
        check_same_device(op, "bbox_regression", deltas, first[0])
        check_same_dtype(op, "cls_logits", logits, first[0])
        check_same_dtype(op, "bbox_regression", deltas, first[1])
        _check_level(op, level, logits, deltas)
        for tensor, like in ((logits, first[0]), (deltas, first[1])):
            check_shape(
                tensor,
                (*like.shape[:2], *tensor.shape[2:]),
                lambda level=level, logits=logits: (  # type: ignore[misc]
                    f"{op}: expected every level to have the batch and channels of the first, "
                    f"[{first[0].shape[0]}, {first[0].shape[1]}, H, W], got {shape(logits)} at level {level}"
                ),
            )


def _check_level(op: str, level: int, logits: Tensor, deltas: Tensor) -> None:
    def deltas_message() -> str:
        return f"{op}: expected bbox_regression[{level}] [B, K * 4, H, W], got {shape(deltas)}"

    check_value(deltas.dim() == 4, deltas_message)
    check_value(deltas.shape[1] % 4 == 0, deltas_message)
    check_value(deltas.shape[1] > 0, deltas_message)
    batch, channels, height, width = deltas.shape
    per_cell = channels // 4

    def logits_message() -> str:
        return (
            f"{op}: expected cls_logits[{level}] [{batch}, {per_cell} * C, {height}, {width}] "
            f"beside its bbox_regression, got {shape(logits)}"
        )

    check_value(logits.dim() == 4, logits_message)
    check_shape(logits, (batch, logits.shape[1], height, width), logits_message)
    check_value(logits.shape[1] % per_cell == 0, logits_message)
    check_value(logits.shape[1] > 0, logits_message)


def check_anchors(
    op: str, anchors: Tensor, strides: Sequence[IntLike], grid_sizes: Sequence[IntLike], like: Tensor
) -> None:
    """``anchors`` ``[A, 4]``, or the base anchors ``[L, K, 4]`` of a grid of L strides and sizes."""
    check_same_device(op, "anchors", anchors, like)
    check_floating(op, "anchors", anchors)
    counts = len(strides) // 2, len(grid_sizes) // 2
    if anchors.dim() == 2:
        check_boxes(op, "anchors", anchors)
        check_value(
            counts == (0, 0),
            lambda: (
                f"{op}: expected no strides and grid sizes beside anchors [A, 4], got {counts[0]} and {counts[1]}"
            ),
        )
        return

    def message() -> str:
        return f"{op}: expected anchors [A, 4] or an AnchorGrid with base_anchors [L, K, 4], got {shape(anchors)}"

    check_value(anchors.dim() == 3, message)
    check_value(anchors.shape[2] == 4, message)
    levels = anchors.shape[0]
    check_value(
        levels <= _MAX_LEVELS,
        lambda: f"{op}: expected an AnchorGrid of at most {_MAX_LEVELS} levels, got {levels}",
    )
    for count in counts:
        check_value(
            levels == count,
            lambda: (
                f"{op}: expected an AnchorGrid with a stride and a grid size for each of its {levels} levels, "
                f"got {counts[0]} and {counts[1]}"
            ),
        )


def check_anchors_of_head(
    op: str,
    anchors: Tensor,
    grid_sizes: Sequence[IntLike],
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
) -> None:
    """The anchors are those of the levels: as many, and for a grid in the same cells."""
    per_cell = bbox_regression[0].shape[1] // 4
    sizes = [level.shape[2:] for level in cls_logits]
    if anchors.dim() == 2:
        expected = per_cell * sum(height * width for height, width in sizes)
        check_value(
            anchors.shape[0] == expected,
            lambda: f"{op}: expected anchors [{expected}, 4] for these levels, got {shape(anchors)}",
        )
        return

    cells = list(zip(grid_sizes[::2], grid_sizes[1::2], strict=True))
    for level, (height, width) in enumerate(sizes):

        def message(level: int = level, height: IntLike = height, width: IntLike = width) -> str:
            found = f"{anchors.shape[0]} levels with {anchors.shape[1]}"
            if level < len(cells):
                found += f" and {cells[level][0]} x {cells[level][1]}"
            return (
                f"{op}: expected an AnchorGrid of {len(sizes)} levels with {per_cell} anchors per cell and "
                f"{height} x {width} cells at level {level}, got {found}"
            )

        check_value(anchors.shape[0] == len(sizes), message)
        check_value(anchors.shape[1] == per_cell, message)
        check_value(cells[level][0] == height, message)
        check_value(cells[level][1] == width, message)
