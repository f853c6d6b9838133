"""The ground-truth box of each anchor."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.head import check_match_anchors, is_padded
from retinanet_fast.structures import AnchorGrid


def match_anchors(
    anchors: Tensor | AnchorGrid,
    gt_boxes: Sequence[Tensor] | Tensor,
    *,
    gt_counts: Tensor | None = None,
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality_matches: bool = True,
    match_zero_iou: bool = True,
) -> Tensor:
    """The ground-truth box that each anchor is trained on (Faster R-CNN's rule, https://arxiv.org/abs/1506.01497).

    ``best[a]`` is the largest IoU of anchor ``a`` with the boxes of its image, and ``argbest[a]`` the box that has it,
    the first one on ties::

        match[a] = argbest[a]     if best[a] >= high_threshold, or a has some box's best IoU
                   -2             else if best[a] >= low_threshold
                   -1             else

    An anchor "has some box's best IoU" if its IoU with that box equals, to the bit, the largest IoU that any anchor has
    with it; the anchor still belongs to its own best box. No matrix of anchors times boxes is stored, and the anchors
    of an :class:`AnchorGrid` are never stored at all.

    Args:
        anchors: ``[A, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels, or an :class:`AnchorGrid`. An anchor with a
            NaN corner overlaps nothing.
        gt_boxes: one tensor ``[G_i, 4]`` per image, on the anchors' device. ``G_i`` may be 0: all background. Or one
            tensor ``[B, G, 4]`` for all images, whose rows after an image's count are padding that nothing looks at.
            In this form nothing depends on the numbers of boxes but values on the device: no recompilation under
            ``torch.compile``, and a CUDA graph sees new boxes at each replay.
        gt_counts: how many of each image's ``G`` padded rows are boxes, ``[B]`` int64 or int32; by default all.
        high_threshold: IoU from which an anchor is foreground.
        low_threshold: IoU below which an anchor is background.
        allow_low_quality_matches: whether anchors that have a box's best IoU are foreground below the threshold.
        match_zero_iou: whether a box that no anchor overlaps takes part. Its best IoU is 0, which, as in torchvision,
            makes every anchor that overlaps no box foreground.

    Returns:
        ``[B, A]`` int64: the index of the box in its image, -1 background, -2 ignored (between the thresholds). IoUs
        are computed in float32, or in float64 if anchors or boxes are float64. The same on CPU and CUDA. Not
        differentiable.
        Under ``vmap``, batched boxes are more images of one call; to derivatives the matches are constants.

    Raises:
        ValueError: wrong shapes or devices, ``low_threshold > high_threshold``, or a box that is not finite or has no
            area, with its image and row, or a count below 0 or above ``G``. On CUDA the GPU alone sees the last two:
            such a box is left out, such a count is 0, and the next call on that device, or
            :func:`retinanet_fast.synchronize_errors`, raises the error, so that no call waits.
        TypeError: anchors or boxes that are not floating point.
    """
    return torch.ops.retinanet_fast.match_anchors(
        *grid_arguments(anchors),
        target_list(gt_boxes),
        gt_counts,
        high_threshold,
        low_threshold,
        allow_low_quality_matches,
        match_zero_iou,
    )


def grid_arguments(anchors: Tensor | AnchorGrid) -> tuple[Tensor, list[int], list[int]]:
    """``anchors`` as the three arguments of the op's schema: a tensor, strides and grid sizes."""
    if isinstance(anchors, AnchorGrid):
        return (
            anchors.base_anchors,
            list(chain.from_iterable(anchors.strides)),
            list(chain.from_iterable(anchors.grid_sizes)),
        )
    return anchors, [], []


def target_list(targets: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """The targets of a batch as the op's schema has them: one tensor per image, or a single padded one."""
    return [targets] if isinstance(targets, Tensor) else list(targets)


def count_anchors(anchors: Tensor, grid_sizes: Sequence[int]) -> int:
    """A, from the arguments of the op's schema."""
    if anchors.dim() == 2:
        return anchors.shape[0]
    cells = sum(h * w for h, w in zip(grid_sizes[::2], grid_sizes[1::2], strict=True))
    return anchors.shape[1] * cells


@torch.library.register_fake("retinanet_fast::match_anchors")
def _(
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    gt_boxes: Sequence[Tensor],
    gt_counts: Tensor | None,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
    match_zero_iou: bool,
) -> Tensor:
    check_match_anchors(anchors, strides, grid_sizes, gt_boxes, gt_counts, high_threshold, low_threshold)
    batch = gt_boxes[0].shape[0] if is_padded(gt_boxes) else len(gt_boxes)
    return anchors.new_empty(batch, count_anchors(anchors, grid_sizes), dtype=torch.int64)
