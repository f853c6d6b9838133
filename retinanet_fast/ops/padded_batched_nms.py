"""Non-maximum suppression of a padded batch of images."""

from __future__ import annotations

from typing import Any

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
        Under ``vmap``, what is batched is more images of one call; to derivatives the results are constants.

    Raises:
        ValueError: shapes or devices that do not match, or a negative ``max_output``.
        TypeError: boxes that are not floating point, scores of another dtype, or idxs that are not integers.
    """
    _check(boxes, scores, idxs, counts, max_output)
    if torch._C._are_functorch_transforms_active():
        return _Transformed.apply(boxes, scores, idxs, iou_threshold, counts, max_output)
    return _padded_batched_nms(boxes, scores, idxs, iou_threshold, counts, max_output)


def _padded_batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    iou_threshold: float,
    counts: Tensor | None,
    max_output: int | None,
) -> tuple[Tensor, Tensor]:
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


class _Transformed(torch.autograd.Function):
    """The function under ``torch.func``'s transforms: what vmap batches is more images, and nothing has a gradient."""

    @staticmethod
    def forward(
        boxes: Tensor,
        scores: Tensor,
        idxs: Tensor,
        iou_threshold: float,
        counts: Tensor | None,
        max_output: int | None,
    ) -> tuple[Tensor, Tensor]:
        return _padded_batched_nms(boxes, scores, idxs, iou_threshold, counts, max_output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[None, ...]:
        return (None,) * 6

    @staticmethod
    def jvp(ctx: Any, *_: Tensor | None) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        boxes: Tensor,
        scores: Tensor,
        idxs: Tensor,
        iou_threshold: float,
        counts: Tensor | None,
        max_output: int | None,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        def images(tensor: Tensor, dim: int | None) -> Tensor:
            """``[V, B, ...]`` as ``[V * B, ...]``."""
            batched = tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
            return batched.flatten(0, 1)

        kept, num_kept = padded_batched_nms(
            images(boxes, in_dims[0]),
            images(scores, in_dims[1]),
            images(idxs, in_dims[2]),
            iou_threshold,
            counts=None if counts is None else images(counts, in_dims[4]),
            max_output=max_output,
        )
        sizes = info.batch_size, -1 if num_kept.numel() else 0
        return (kept.unflatten(0, sizes), num_kept.unflatten(0, sizes)), (0, 0)


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
