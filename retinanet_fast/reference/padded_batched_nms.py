from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.reference.batched_nms import batched_nms


def padded_batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    counts: Tensor | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """``batched_nms`` of each image of a padded batch: indices ``[B, max_output]``, -1 after each image's count."""
    batch, n = scores.shape
    limit = n if max_output is None else max_output
    kept = torch.full((batch, limit), -1, device=boxes.device)
    num_kept = torch.zeros(batch, dtype=torch.int64, device=boxes.device)
    for image in range(batch):
        end = n if counts is None else int(counts[image])
        best = batched_nms(boxes[image, :end], scores[image, :end], idxs[image, :end], iou_threshold)[:limit]
        kept[image, : len(best)] = best
        num_kept[image] = len(best)
    return kept, num_kept
