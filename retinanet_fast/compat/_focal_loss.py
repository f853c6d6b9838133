"""The fused sigmoid focal loss with the dtypes that other libraries' losses have."""

import torch
from torch import Tensor

from retinanet_fast import ops


def focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str, dtype: torch.dtype
) -> Tensor:
    """:func:`retinanet_fast.ops.sigmoid_focal_loss` with the loss in ``dtype``; gradients keep their inputs' dtypes.

    Args:
        inputs, targets, gamma, reduction: as the op takes them.
        alpha: the op's; any negative number leaves the weights out, as in the libraries that test ``alpha >= 0``.
        dtype: of the loss.
    """
    alpha = -1.0 if alpha < 0 else alpha
    # This copies half logits to float32. The op's keyword `dtype` will make it unnecessary in the reduced forms.
    return ops.sigmoid_focal_loss(inputs.to(dtype), targets, alpha, gamma, reduction)


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


def one_hot_targets(inputs: Tensor, targets: Tensor) -> Tensor:
    """Targets of 0 and 1 in an integer dtype or bool, in the dtype of ``inputs``; to the op, integers are classes."""
    return targets if targets.is_floating_point() else targets.to(inputs.dtype)
