"""Targets of a batch in one tensor each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["pad_targets"]


def pad_targets(targets: Sequence[Mapping[str, Tensor]], multiple: int = 1) -> dict[str, Tensor]:
    """The targets of a batch, padded to the same number of boxes: the form whose shapes do not tell images apart.

    A compiled model has one graph for it, whatever the numbers of boxes, where lists have one for each arrangement of
    images with no box, one and more; and a CUDA graph can be replayed with new boxes in the same tensors.

    Args:
        targets: one dict per image of ``boxes`` ``[N, 4]`` and ``labels`` ``[N]``; other entries are left out.
        multiple: round the number of rows up to a multiple of this. With 64, say, nearly all batches have one shape.

    Returns:
        ``boxes`` ``[B, G, 4]``, ``labels`` ``[B, G]`` and ``counts`` ``[B]`` int64 on the targets' device, with G the
        largest N, rounded up, and at least ``multiple``. The rows after an image's count are 0.

    Raises:
        ValueError: no targets, or ``multiple`` below 1.
    """
    if not targets or multiple < 1:
        raise ValueError(
            f"pad_targets: expected at least one target and multiple >= 1, got {len(targets)} and {multiple}"
        )
    counts = [target["boxes"].shape[0] for target in targets]
    rows = -(-max(1, *counts) // multiple) * multiple
    first = targets[0]
    boxes = first["boxes"].new_zeros(len(targets), rows, 4)
    labels = first["labels"].new_zeros(len(targets), rows)
    for image, (target, count) in enumerate(zip(targets, counts, strict=True)):
        boxes[image, :count] = target["boxes"]
        labels[image, :count] = target["labels"]
    on_host = torch.tensor(counts, dtype=torch.int64, device="cpu")
    return {"boxes": boxes, "labels": labels, "counts": on_host.to(boxes.device)}
