"""The focal loss of the DETR family.

- your import: ``sigmoid_focal_loss`` from ``models.segmentation`` (DETR, Deformable, conditional and DAB-DETR), from
  ``models.dino.utils`` (DINO), or from ``transformers.loss.loss_for_object_detection``
- ours: ``from retinanet_fast.compat.detr import sigmoid_focal_loss``

MaskFormer's and MaskDINO's have the same values; their third argument is called ``num_masks``, so pass it by position.
RT-DETR calls torchvision's: there ``compat.torchvision.sigmoid_focal_loss(..., reduction="sum") / num_boxes`` is its
``loss.mean(1).sum() * Q / num_boxes``.

What differs: errors are ``ValueError`` with what was expected; a second derivative raises; half types are computed and
summed in float32 and rounded once.
"""

import torch
from torch import Tensor

from retinanet_fast.compat._focal_loss import loss_dtype, wide_focal_loss

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, num_boxes: float | Tensor, alpha: float = 0.25, gamma: float = 2
) -> Tensor:
    """``loss.mean(1).sum() / num_boxes`` of the sigmoid focal loss: its fused sum, divided by Q and ``num_boxes``.

    Args:
        inputs: logits ``[B, Q, C]`` of Q queries, or ``[N, HW]`` of the mask head; the mean is over dimension 1.
        targets: float, of the same shape, 0, 1 or between; or class indices ``[B, Q]`` with -1 for background, which
            DETR's functions do not take (see :func:`retinanet_fast.ops.sigmoid_focal_loss`).
        num_boxes: a number, or a tensor with one.
        alpha: the weight of targets 1, in [0, 1]; negative: no weights.
        gamma: exponent, not negative.

    Returns:
        A scalar (of the shape of ``num_boxes``, where that is a tensor) in the wider dtype of inputs and targets; under
        autocast at least float32.

    Raises:
        ValueError: fewer than two dimensions, shapes that differ, ``alpha`` or ``gamma`` other than these.
        NotImplementedError: a second derivative.
    """
    if inputs.dim() < 2:
        raise ValueError(
            f"sigmoid_focal_loss: expected inputs [B, Q, C] or [N, HW], got {list(inputs.shape)}"
        )
    total = wide_focal_loss(inputs, targets, alpha, gamma, "sum")
    loss = total / inputs.shape[1] / num_boxes
    dtype = loss_dtype(inputs, targets)
    if dtype == total.dtype:
        return loss
    # A half sum would overflow at 65,504; the quotient is what is rounded.
    return loss.to(torch.result_type(total.new_empty((), dtype=dtype), num_boxes))
