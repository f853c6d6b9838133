"""Both focal losses under transforms."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast import reference
from retinanet_fast._checks.focal_losses import check_sigmoid_focal_loss, check_softmax_focal_loss
from retinanet_fast._transforms.decompose import decomposition


@decomposition("sigmoid_focal_loss")
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    wide_loss: bool = False,
) -> Tensor:
    check_sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)
    return reference.sigmoid_focal_loss(_widened(inputs, wide_loss), targets, alpha, gamma, reduction)


@decomposition("softmax_focal_loss")
def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    alpha: float = 1.0,
    gamma: float = 2.0,
    reduction: str = "mean",
    wide_loss: bool = False,
) -> Tensor:
    check_softmax_focal_loss(inputs, targets, class_weights, alpha, gamma, reduction)
    weights = alpha if class_weights is None else alpha * class_weights
    return reference.softmax_focal_loss(_widened(inputs, wide_loss), targets, weights, gamma, reduction)


def _widened(inputs: Tensor, wide_loss: bool) -> Tensor:
    """The logits in the dtype of the loss, which under autocast, or where asked for, is float32 at least.

    Transforms take a call before autocast does.
    """
    if wide_loss or torch.is_autocast_enabled(inputs.device.type):
        return inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    return inputs
