"""The fused sigmoid focal loss with the dtypes that other libraries' losses have."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops

_sigmoid_focal_loss = torch.ops.retinanet_fast.sigmoid_focal_loss.default


def wide_focal_loss(inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str) -> Tensor:
    """:func:`retinanet_fast.ops.sigmoid_focal_loss` with the loss of half logits in float32.

    Reduced, half logits are read as they are; with ``"none"`` they are copied to float32. Any negative ``alpha`` leaves
    the weights out, as in the libraries that test ``alpha >= 0``.
    """
    return _sigmoid_focal_loss(
        inputs, targets, -1.0 if alpha < 0 else alpha, gamma, reduction, wide_loss=True
    )


def loss_dtype(inputs: Tensor, targets: Tensor) -> torch.dtype:
    """The dtype of a focal loss in plain PyTorch: the wider of the two, and at least float32 under autocast.

    Autocast runs ``binary_cross_entropy_with_logits`` in float32; float64 stays float64.
    """
    dtype = inputs.dtype
    if targets.is_floating_point():
        dtype = torch.promote_types(dtype, targets.dtype)
    if torch.is_autocast_enabled(inputs.device.type):
        dtype = torch.promote_types(dtype, torch.float32)
    return dtype
