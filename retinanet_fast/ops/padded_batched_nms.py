"""Non-maximum suppression of a padded batch of images."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.ops.batched_nms import batched_nms


def padded_batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    *,
    counts: Tensor | None = None,
    max_output: int | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`batched_nms` for every image of a batch in one call, for detectors that pad their images' boxes.

    Image and class are compared as one integer, ``image * 2^32 + class``, so that the batch needs a single call of
    :func:`batched_nms`. Ties, NaN and the threshold are treated as there.

    Args:
        boxes: ``[B, N, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[B, N]``, of the same dtype and on the same device.
        idxs: ``[B, N]``, classes, integers that fit into 32 bits.
        iou_threshold: as in :func:`nms`.
        counts: ``[B]`` integers: only the first ``counts[b]`` boxes of image ``b`` exist. All by default.
        max_output: M, the most boxes that are kept per image; the best are. N by default.

    Returns:
        ``(kept, num_kept)``: ``kept`` ``[B, M]`` int64, indices into each image's N boxes by descending score, and -1
        after the first ``num_kept[b]``; ``num_kept`` ``[B]`` int64. Not differentiable. On CUDA the call
        synchronises once for the whole batch.

    Raises:
        ValueError: shapes or devices that do not match, or a negative ``max_output``.
        TypeError: boxes that are not floating point, scores of another dtype, or idxs that are not integers.
    """
    _check(boxes, scores, idxs, counts, max_output)
    batch, n = scores.shape
    image = torch.arange(batch, device=boxes.device)[:, None].expand(batch, n)
    if counts is not None:
        exists = torch.arange(n, device=boxes.device) < counts[:, None]
        image = torch.where(exists, image, image + batch)  # padding meets only padding
    groups = (image << 32) + idxs
    kept = batched_nms(boxes.flatten(0, 1), scores.flatten(), groups.flatten(), iou_threshold)

    # No shape below depends on values, so that nothing else waits for a CUDA device: what is not wanted, padding and
    # boxes beyond the limit, goes to a row and a column that are cut off.
    limit = n if max_output is None else max_output
    owner = image.flatten()[kept].clamp(max=batch).int()
    owner, order = owner.sort(stable=True)
    first = torch.searchsorted(owner, torch.arange(batch + 1, device=boxes.device, dtype=torch.int32))
    place = torch.arange(kept.shape[0], device=boxes.device) - first[owner]
    output = kept.new_full((batch + 1, limit + 1), -1)
    output[owner, place.clamp(max=limit)] = kept[order] % max(n, 1)
    return output[:batch, :limit].contiguous(), first.diff().clamp(max=limit)


def _check(
    boxes: Tensor, scores: Tensor, idxs: Tensor, counts: Tensor | None, max_output: int | None
) -> None:
    if boxes.dim() != 3 or boxes.shape[2] != 4:
        raise ValueError(f"padded_batched_nms: expected boxes [B, N, 4], got {list(boxes.shape)}")
    for name, tensor in (("scores", scores), ("idxs", idxs)):
        if tensor.shape != boxes.shape[:2]:
            expected = list(boxes.shape[:2])
            raise ValueError(f"padded_batched_nms: expected {name} {expected}, got {list(tensor.shape)}")
    if idxs.is_floating_point():
        raise TypeError(f"padded_batched_nms: expected idxs of an integer dtype, got {idxs.dtype}")
    if counts is not None and counts.shape != boxes.shape[:1]:
        raise ValueError(f"padded_batched_nms: expected counts [{boxes.shape[0]}], got {list(counts.shape)}")
    if max_output is not None and max_output < 0:
        raise ValueError(f"padded_batched_nms: expected max_output >= 0, got {max_output}")
