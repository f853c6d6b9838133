"""fvcore's focal losses and box losses (names and signatures of ``fvcore.nn``, fvcore 0.1.5.post20221221).

- your import: ``from fvcore.nn import sigmoid_focal_loss, sigmoid_focal_loss_star, smooth_l1_loss, giou_loss``,
  and the ``_jit`` names of the first two
- ours: the same names ``from retinanet_fast.compat.fvcore``; the last three are plain PyTorch

What differs:

- The ``_jit`` names are plain functions, not ``torch.jit.ScriptFunction``; ``torch.compile`` takes them.
- Another ``reduction`` than ``"none"``, ``"mean"`` and ``"sum"`` is a ``ValueError``; fvcore's returns the losses
  unreduced. ``alpha`` above 1 is a ``ValueError`` too; any negative one means no weights, as there.
- ``sigmoid_focal_loss``: a second derivative raises.
- ``giou_loss``: a box with ``x1 > x2`` or ``y1 > y2`` in ``boxes1`` is a ``ValueError`` with its row, not an
  ``AssertionError``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet_fast.compat import _box_loss
from retinanet_fast.compat._focal_loss import wide_focal_loss

__all__ = [
    "giou_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_loss_jit",
    "sigmoid_focal_loss_star",
    "sigmoid_focal_loss_star_jit",
    "smooth_l1_loss",
]


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = -1, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """fvcore's ``sigmoid_focal_loss``: :func:`retinanet_fast.ops.sigmoid_focal_loss` with a float32 result.

    Args:
        inputs: logits of any shape.
        targets: of the same shape, 0, 1 or between, of any dtype (integers and bool are numbers, not class indices).
        alpha: the weight of targets 1, in [0, 1]; negative (the default): no weights.
        gamma: exponent, not negative.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The losses, or a scalar; float32 whatever comes in. The gradient has the dtype of ``inputs``. Reduced, half
        logits are read as they are; with ``"none"`` they are copied to float32, and so are float64 ones.

    Raises:
        ValueError: shapes that differ, or ``alpha``, ``gamma`` or ``reduction`` other than these.
        NotImplementedError: a second derivative.
    """
    if inputs.dtype == torch.float64:
        inputs = inputs.float()
    if targets.dtype == torch.float64:
        targets = targets.float()
    elif not targets.is_floating_point():
        targets = targets.to(inputs.dtype)
    return wide_focal_loss(inputs, targets, alpha, gamma, reduction)


sigmoid_focal_loss_jit = sigmoid_focal_loss


def sigmoid_focal_loss_star(
    inputs: Tensor, targets: Tensor, alpha: float = -1, gamma: float = 1, reduction: str = "none"
) -> Tensor:
    """fvcore's ``sigmoid_focal_loss_star``, FL* of the focal loss paper's appendix, in plain PyTorch.

    ::

        loss = -a_t log(sigmoid(gamma x (2 t - 1))) / gamma          a_t = alpha t + (1 - alpha) (1 - t)

    Args:
        inputs: logits of any shape.
        targets: of the same shape, 0, 1 or between, of any dtype.
        alpha: the weight of targets 1; negative (the default): no weights.
        gamma: the slope.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The losses, or a scalar; float32 whatever comes in. Differentiable any number of times.

    Raises:
        ValueError: another ``reduction``.
    """
    inputs, targets = inputs.float(), targets.float()
    loss = -F.logsigmoid(gamma * (inputs * (2 * targets - 1))) / gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    if reduction == "mean":
        return loss.mean()
    return _box_loss.reduced(loss, reduction, "sigmoid_focal_loss_star")


sigmoid_focal_loss_star_jit = sigmoid_focal_loss_star


def smooth_l1_loss(input: Tensor, target: Tensor, beta: float, reduction: str = "none") -> Tensor:
    """fvcore's ``smooth_l1_loss``, in plain PyTorch.

    ::

        loss = 0.5 d^2 / beta   where d < beta,   d - 0.5 beta   elsewhere          d = |input - target|

    Args:
        input, target: of any shapes that broadcast.
        beta: where the loss turns from square to linear; below 1e-5 it is L1.
        reduction: ``"none"``, ``"mean"`` (0 of no elements) or ``"sum"``.

    Returns:
        The losses, or a scalar, in the wider dtype of the two.

    Raises:
        ValueError: another ``reduction``.
    """
    input, target = torch.broadcast_tensors(input, target)
    loss = F.smooth_l1_loss(input, target, beta=0.0 if beta < 1e-5 else beta, reduction="none")
    return _box_loss.reduced(loss, reduction, "smooth_l1_loss")


def giou_loss(boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7) -> Tensor:
    """fvcore's ``giou_loss``, ``1 - GIoU`` (https://arxiv.org/abs/1902.09630), in plain PyTorch.

    Args:
        boxes1, boxes2: ``[N, 4]`` or ``[4]``, ``(x1, y1, x2, y2)``.
        reduction: ``"none"``, ``"mean"`` (0 of no boxes) or ``"sum"``.
        eps: added to the divisors.

    Returns:
        ``[N]`` losses, or a scalar, in the boxes' dtype. Looks at the values of ``boxes1`` on the host, as fvcore's
        does, which synchronises on CUDA; ``compat.torchvision.generalized_box_iou_loss`` does not.

    Raises:
        ValueError: a box of ``boxes1`` with ``x2 < x1`` or ``y2 < y1``, or another ``reduction``.
    """
    ordered = (boxes1[..., 2:] >= boxes1[..., :2]).all(dim=-1)
    if not bool(ordered.all()):
        rows = (~ordered.reshape(-1)).nonzero().flatten()
        box = boxes1.detach().reshape(-1, 4)[rows[0]].tolist()
        raise ValueError(f"giou_loss: expected boxes1 with x1 <= x2 and y1 <= y2, got {box} in row {rows[0]}")
    return _box_loss.reduced(_box_loss.giou_loss(boxes1, boxes2, eps), reduction, "giou_loss")
