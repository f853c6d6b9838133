from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from retinanet_fast.reference._common import check_labels, compute_dtype, reduce


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    """``alpha_t (1 - p_t)^gamma CE(x, t)``, ``p = sigmoid(x)`` (Lin et al.,
    https://arxiv.org/abs/1708.02002).

    ``targets`` are float in the shape of ``inputs``, or class indices of shape ``inputs.shape[:-1]`` where -1
    is background and -2 has no loss. ``alpha`` -1 leaves the weighting out. ``mean`` divides by
    ``inputs.numel()``.
    """
    if not (0 <= alpha <= 1) and alpha != -1:
        raise ValueError(f"sigmoid_focal_loss: expected alpha in [0, 1] or -1, got {alpha}")
    if not 0 <= gamma < float("inf"):
        raise ValueError(f"sigmoid_focal_loss: expected gamma finite and not negative, got {gamma}")
    if targets.is_floating_point():
        x, t = (tensor.to(compute_dtype(inputs, targets)) for tensor in (inputs, targets))
        dtype = torch.promote_types(inputs.dtype, targets.dtype)
        return reduce(_focal(x, t, alpha, gamma), reduction).to(dtype)
    x = inputs.to(compute_dtype(inputs))
    ignored = (targets == -2)[..., None]
    loss = _focal(x.masked_fill(ignored, 0), _one_hot(targets, x), alpha, gamma)
    return reduce(loss.masked_fill(ignored, 0), reduction).to(inputs.dtype)


def _focal(x: Tensor, t: Tensor, alpha: float, gamma: float) -> Tensor:
    cross_entropy = -(t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))
    # 1 - p_t without the cancellation of 1 - p. The floor keeps its power's gradient finite for gamma < 1.
    miss = (x.sigmoid() * (1 - t) + (-x).sigmoid() * t).clamp_min(torch.finfo(x.dtype).tiny)
    loss = cross_entropy * miss**gamma
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


def _one_hot(labels: Tensor, like: Tensor) -> Tensor:
    num_classes = like.shape[-1]
    check_labels("sigmoid_focal_loss", labels, -2, num_classes)
    return (labels[..., None] == torch.arange(num_classes, device=labels.device)).to(like.dtype)
