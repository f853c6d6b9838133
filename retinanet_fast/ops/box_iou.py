"""Pairwise intersection over union."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.boxes import check_box_iou


def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    r"""Intersection over union of every pair of boxes from two sets.

    .. math::

        \text{iou} = \frac{\text{inter}}{\text{area}_1 + \text{area}_2 - \text{inter}}

    is evaluated in that order and never contracted into fused multiply-adds: the same bits on every CPU and on CUDA.

    Args:
        boxes1: ``[N, 4]`` floating point or integer, ``(x1, y1, x2, y2)`` in pixels.
        boxes2: ``[M, 4]``, on the same device. Of two dtypes the wider is the one to compute in.

    Returns:
        ``[N, M]`` in float32, or float64 where boxes are float64; ``nan`` for a pair of boxes without area (0 / 0) or
        with a NaN corner. Areas of integer boxes are exact (below 2^53). Differentiable by both. Where two corners
        coincide, the gradient is shared evenly, as in ``torch.maximum``.
        Under ``torch.func``'s transforms and for dual tensors plain PyTorch computes them, with derivatives of any
        order.

    Raises:
        ValueError: a shape that is not ``[N, 4]``, or boxes on different devices.
        TypeError: boxes that are not numbers.
    """
    return torch.ops.retinanet_fast.box_iou(boxes1, boxes2)


@torch.library.register_fake("retinanet_fast::box_iou")
def _(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    check_box_iou(boxes1, boxes2)
    dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
    return boxes1.new_empty(boxes1.shape[0], boxes2.shape[0], dtype=dtype)


@torch.library.register_fake("retinanet_fast::box_iou_backward")
def _(grad_iou: Tensor, boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(boxes1, memory_format=contiguous),
        torch.empty_like(boxes2, memory_format=contiguous),
    )
