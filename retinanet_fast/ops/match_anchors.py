"""Anchors to ground-truth boxes."""

from collections.abc import Sequence
from itertools import chain

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast.structures import AnchorGrid


def match_anchors(
    anchors: Tensor | AnchorGrid,
    gt_boxes: Sequence[Tensor],
    *,
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality_matches: bool = True,
    match_zero_iou: bool = True,
) -> Tensor:
    """Which ground-truth box each anchor is trained on (Faster R-CNN's rule, https://arxiv.org/abs/1506.01497).

    With ``best[a]`` the largest IoU of anchor ``a`` with its image's boxes and ``argbest[a]`` that box, the first on
    ties::

        match[a] = argbest[a]     if best[a] >= high_threshold, or a has some box's best IoU
                   -2             else if best[a] >= low_threshold
                   -1             else

    An anchor "has some box's best IoU" when its IoU with that box equals, to the bit, the largest that any anchor has;
    it still belongs to its own best box. Nothing of the size of anchors times boxes is stored, and anchors of an
    :class:`AnchorGrid` are never stored at all.

    Args:
        anchors: ``[A, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels, or an :class:`AnchorGrid`. One with a NaN
            corner overlaps nothing.
        gt_boxes: an image's boxes each, ``[G_i, 4]``, on the anchors' device. ``G_i`` may be 0: all background.
        high_threshold: IoU of a foreground anchor.
        low_threshold: IoU below which an anchor is background.
        allow_low_quality_matches: whether anchors that have a box's best IoU are foreground below the threshold.
        match_zero_iou: a box that no anchor overlaps has the best IoU 0 with all of them, so that, as in torchvision,
            every anchor of its image becomes foreground. False leaves such boxes out.

    Returns:
        ``[B, A]`` int64: index of the box in its image, -1 background, -2 between the thresholds. IoUs are computed
        in float32, or float64 where anchors or boxes are. The same on CPU and CUDA. Not differentiable.

    Raises:
        ValueError: wrong shapes or devices, ``low_threshold > high_threshold``, or a box that is not finite or has no
            area, with its image and row. On CUDA, where that is only seen by the GPU, such a box is left out, and
            the next call on that device raises the error: nothing waits for the GPU.
        TypeError: anchors or boxes that are not floating point.
    """
    return torch.ops.retinanet_fast.match_anchors(
        *grid_arguments(anchors),
        list(gt_boxes),
        high_threshold,
        low_threshold,
        allow_low_quality_matches,
        match_zero_iou,
    )


def grid_arguments(anchors: Tensor | AnchorGrid) -> tuple[Tensor, list[int], list[int]]:
    """``anchors`` as the three arguments that the dispatcher knows: a tensor, strides and grid sizes."""
    if isinstance(anchors, AnchorGrid):
        return (
            anchors.base_anchors,
            list(chain.from_iterable(anchors.strides)),
            list(chain.from_iterable(anchors.grid_sizes)),
        )
    return anchors, [], []


def count_anchors(anchors: Tensor, grid_sizes: Sequence[int]) -> int:
    """A, from the dispatcher's arguments."""
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
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
    match_zero_iou: bool,
) -> Tensor:
    return anchors.new_empty(len(gt_boxes), count_anchors(anchors, grid_sizes), dtype=torch.int64)
