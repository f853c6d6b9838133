"""mmcv's focal losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retinanet_fast import ops
from retinanet_fast.compat._focal_loss import wide_focal_loss


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``mmcv.ops.sigmoid_focal_loss`` by :func:`retinanet_fast.ops.sigmoid_focal_loss`.

    The labels are mmcv's: a class in [0, C) is foreground, and C, like any other number, is background.
    (``ops.sigmoid_focal_loss`` has background -1, and raises an error for C.)

    What differs: the loss of a logit beyond about 17 is right, where mmcv's float32 rounds ``1 - p`` to 0. In a
    background row ``weight`` is 1, where mmcv reads past its end. Arguments may be named. Also on the CPU.

    Args:
        input: ``[N, C]`` logits.
        target: ``[N]`` int64 or int32 classes, background C.
        gamma, alpha: as in the focal loss; note that ``gamma`` comes first.
        weight: ``[C]``: the losses of a row of class ``t``, all C of them, are multiplied by ``weight[t]``. With it the
            losses ``[N, C]`` are stored and multiplied; without it a reduced loss is one pass over the logits.
        reduction: ``"none"``, ``"sum"``, or ``"mean"``, which divides by N, not by N * C.

    Returns:
        The losses ``[N, C]`` or a scalar, in the dtype of ``input``. Differentiable by ``input``.
    """
    _check("sigmoid_focal_loss", input, target, weight, reduction)
    foreground = (target >= 0) & (target < input.shape[1])
    labels = torch.where(foreground, target, -1)
    if weight is not None:
        weights = torch.where(foreground, _class_weights(weight, target), 1)
        losses = ops.sigmoid_focal_loss(input, labels, alpha, gamma) * weights[:, None]
        return _reduced(losses, reduction).to(input.dtype)
    if reduction == "none":
        return ops.sigmoid_focal_loss(input, labels, alpha, gamma)
    # In float16 the factor 1 / N would lose its digits, and a sum its range.
    total = wide_focal_loss(input, labels, alpha, gamma, "sum")
    return (total / input.shape[0] if reduction == "mean" else total).to(input.dtype)


def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``mmcv.ops.softmax_focal_loss`` by :func:`retinanet_fast.ops.softmax_focal_loss`.

    What differs: losses and gradients stay finite and exact where a probability underflows. A target of C or more
    raises ``IndexError``, where mmcv reads the next row. The gradient of ``reduction="none"`` is right for N other than
    C, too. Arguments may be named. Also on the CPU.

    Args:
        input: ``[N, C]`` logits.
        target: ``[N]`` int64 or int32 classes in [0, C); a negative one is ignored.
        gamma, alpha: as in the focal loss; ``alpha`` multiplies every class.
        weight: ``[C]``, a further factor for each class.
        reduction: ``"none"``, ``"sum"``, or ``"mean"``, which divides by N, ignored rows included.

    Returns:
        The losses ``[N]`` or a scalar, in the dtype of ``input``. Differentiable by ``input``.
    """
    _check("softmax_focal_loss", input, target, weight, reduction)
    losses = ops.softmax_focal_loss(input, target.clamp(min=0), alpha, gamma, "none")
    if weight is not None:
        losses = losses * _class_weights(weight, target)
    losses = torch.where(target >= 0, losses, 0)
    return _reduced(losses, reduction).to(input.dtype)


class _FocalLoss(nn.Module):
    weight: Tensor | None

    def __init__(
        self, gamma: float, alpha: float, weight: Tensor | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def __repr__(self) -> str:
        return f"{type(self).__name__}(gamma={self.gamma}, alpha={self.alpha}, reduction={self.reduction})"


class SigmoidFocalLoss(_FocalLoss):
    """:func:`sigmoid_focal_loss` as a module; ``weight`` is a buffer, as mmcv's is."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return sigmoid_focal_loss(input, target, self.gamma, self.alpha, self.weight, self.reduction)


class SoftmaxFocalLoss(_FocalLoss):
    """:func:`softmax_focal_loss` as a module; ``weight`` is a buffer, as mmcv's is."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return softmax_focal_loss(input, target, self.gamma, self.alpha, self.weight, self.reduction)


def _class_weights(weight: Tensor, target: Tensor) -> Tensor:
    """Each row's weight; that of a row outside the classes is some other class's."""
    return weight.detach()[target.clamp(0, weight.shape[0] - 1)]


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    total = losses.sum()
    return total / losses.shape[0] if reduction == "mean" else total


def _check(name: str, input: Tensor, target: Tensor, weight: Tensor | None, reduction: str) -> None:
    if input.dim() != 2:
        raise ValueError(f"{name}: expected input [N, C], got {list(input.shape)}")
    if target.dim() != 1 or target.shape[0] != input.shape[0]:
        raise ValueError(
            f"{name}: expected target [{input.shape[0]}], got {list(target.shape)}; classes, background C"
        )
    if target.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{name}: expected target of dtype int64, got {target.dtype}")
    if weight is not None and (weight.dim() != 1 or weight.shape[0] != input.shape[1]):
        raise ValueError(f"{name}: expected weight [{input.shape[1]}], got {list(weight.shape)}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'{name}: expected reduction "none", "mean" or "sum", got {reduction!r}')
