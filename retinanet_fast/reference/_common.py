"""What several twins share: the dtype that they compute in, checks of labels, reductions, the head's layout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' dtypes, and at least float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """``loss`` itself, its mean over all elements, or its sum."""
    if reduction == "none":
        return loss
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    raise ValueError(f"expected reduction 'none', 'mean' or 'sum', got {reduction!r}")


def image_targets(targets: Sequence[Tensor] | Tensor, counts: Tensor | None) -> list[Tensor]:
    """The targets of each image, without padding."""
    if counts is None:
        return list(targets)
    return [rows[:count] for rows, count in zip(targets, counts.tolist(), strict=True)]


def check_labels(op: str, labels: Tensor, low: int, high: int) -> None:
    """Raises an IndexError for a label outside ``[low, high)``. Traced labels have no values to check."""
    while torch._C._functorch.is_functorch_wrapped_tensor(labels):  # by vmap, which hides values
        labels = torch._C._functorch.get_unwrapped(labels)
    traced = is_fake(labels) or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    if traced or labels.is_meta or labels.numel() == 0:
        return
    least, most = int(labels.min()), int(labels.max())
    if least < low or most >= high:
        raise IndexError(f"{op}: expected labels in [{low}, {high}), got [{least}, {most}]")


def flatten_level(output: Tensor, values: int) -> Tensor:
    """One head output ``[B, K * values, H, W]`` as rows ``[B, H * W * K, values]``."""
    batch, channels, height, width = output.shape
    rows = output.reshape(batch, channels // values, values, height, width).permute(0, 3, 4, 1, 2)
    return rows.reshape(batch, -1, values)


def level_rows(
    cls_logits: Sequence[Tensor], bbox_regression: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """For each level, the logits ``[B, A_l, C]`` and deltas ``[B, A_l, 4]`` of its anchors, in at least float32."""
    rows = []
    for logits, deltas in zip(cls_logits, bbox_regression, strict=True):
        num_anchors = deltas.shape[1] // 4
        dtype = compute_dtype(logits, deltas)
        level_logits = flatten_level(logits.to(dtype), logits.shape[1] // num_anchors)
        rows.append((level_logits, flatten_level(deltas.to(dtype), 4)))
    return rows
