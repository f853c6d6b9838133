from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import check_labels, compute_dtype, reduce


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Sequence[float] | Tensor | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """``-alpha_t (1 - p_t)^gamma ln p_t`` with ``p = softmax(inputs)``, the categorical focal loss.

    ``inputs`` ``[N, C]``, ``targets`` ``[N]`` class indices in ``[0, C)``, ``alpha`` a number or one weight
    per class. ``mean`` divides by N.
    """
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"softmax_focal_loss: expected gamma finite and not negative, got {gamma}")
    check_labels("softmax_focal_loss", targets, 0, inputs.shape[1])
    x = inputs.to(compute_dtype(inputs))
    log_p = x.log_softmax(dim=1).gather(1, targets[:, None].long())[:, 0]
    # 1 - p_t without cancellation. The floor keeps its power's gradient finite for gamma < 1.
    miss = (-torch.expm1(log_p)).clamp_min(torch.finfo(x.dtype).tiny)
    loss = -log_p * miss**gamma
    if alpha is not None:
        loss = _class_weights(alpha, x)[targets.long()] * loss
    return reduce(loss, reduction).to(inputs.dtype)


def _class_weights(alpha: float | Sequence[float] | Tensor, like: Tensor) -> Tensor:
    weights = torch.as_tensor(alpha, dtype=like.dtype, device=like.device)
    num_classes = like.shape[1]
    if weights.dim() == 0:
        return weights.expand(num_classes)
    if weights.shape != (num_classes,):
        raise ValueError(
            f"softmax_focal_loss: expected alpha to be a number or of shape [{num_classes}], "
            f"got shape {list(weights.shape)}"
        )
    return weights
