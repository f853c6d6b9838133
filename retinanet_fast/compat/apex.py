"""apex's focal loss, on the CPU too.

- your import: ``from apex.contrib.focal_loss.focal_loss import focal_loss, FocalLoss``
- ours: ``from retinanet_fast.compat.apex import focal_loss, FocalLoss``

What differs:

- Any device, any floating dtype (bfloat16 too), any number of classes: apex wants CUDA, float32 or float16, and classes
  padded to 16 bytes.
- The gradient is right on a second backward pass (apex's scales its saved gradient in place), and rounded once, twice
  with smoothing; sums are added in a fixed order; float64 is summed in float64 before the float32 result.
- A target outside [-2, ``num_real_classes``) is an ``IndexError``; apex takes it as background. ``alpha`` is in [0, 1].
- ``FocalLoss`` has ``apply`` alone; it is no ``torch.autograd.Function``.
- ``label_smoothing`` adds a term in plain PyTorch, and is slower.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet_fast.compat._focal_loss import wide_focal_loss

__all__ = ["FocalLoss", "focal_loss"]


def focal_loss(
    cls_output: Tensor,
    cls_targets_at_level: Tensor,
    num_positive_sum: Tensor,
    num_real_classes: int,
    alpha: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The sum of the sigmoid focal loss, divided by the number of positives (``apex.contrib.focal_loss``).

    With hard targets t, 1 for a row's class and 0 elsewhere, p = sigmoid(x) and s = ``label_smoothing``::

        p_t = p t + (1 - p) (1 - t)        a_t = alpha t + (1 - alpha) (1 - t)        u = (1 - s) t + s / 2
        loss = 1 / num_positive_sum  sum a_t (1 - p_t)^gamma BCE(x, u)

    The smoothing is that of two classes and is in the cross entropy alone: ``a_t`` and ``p_t`` keep the hard target.

    Args:
        cls_output: ``[..., P]`` logits; P is ``num_real_classes``, or more where classes are padded.
        cls_targets_at_level: ``[...]`` int64: the class, -1 background, -2 ignored (no loss, no gradient).
        num_positive_sum: one float, as a tensor; it gets no gradient.
        num_real_classes: the classes from here on have no loss, and gradient 0. They cost a copy: with P above
            ``num_real_classes`` the real ones are copied together first, and their gradient is copied back; pad no
            classes here.
        alpha: the weight of t = 1, in [0, 1].
        gamma: exponent, not negative.
        label_smoothing: s, in [0, 1].

    Returns:
        A scalar in float32, for float64 logits too, as apex has it. The gradient has the dtype of ``cls_output``.

    Raises:
        ValueError: shapes that do not match, or ``num_real_classes``, ``alpha``, ``gamma``, ``label_smoothing`` other
            than these.
        TypeError: targets that are not int64 or int32.
        IndexError: a target outside [-2, ``num_real_classes``).
        NotImplementedError: a second derivative.
    """
    _check(cls_output, cls_targets_at_level, num_positive_sum, num_real_classes, alpha, label_smoothing)
    logits = cls_output
    if num_real_classes < cls_output.shape[-1]:
        logits = cls_output[..., :num_real_classes]
    total = wide_focal_loss(logits, cls_targets_at_level, alpha, gamma, "sum")
    if label_smoothing != 0:
        wide = logits.to(total.dtype)
        total = total + label_smoothing / 2 * _smoothing(wide, cls_targets_at_level, alpha, gamma)
    return (total / num_positive_sum.detach().reshape(())).float()


class FocalLoss:
    """apex's ``FocalLoss``, for code that calls ``FocalLoss.apply``."""

    @staticmethod
    def apply(
        cls_output: Tensor,
        cls_targets_at_level: Tensor,
        num_positives_sum: Tensor,
        num_real_classes: int,
        alpha: float,
        gamma: float,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """:func:`focal_loss` of the same arguments."""
        return focal_loss(
            cls_output,
            cls_targets_at_level,
            num_positives_sum,
            num_real_classes,
            alpha,
            gamma,
            label_smoothing,
        )


def _smoothing(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """``2 / s`` times what smoothing adds to the loss: ``BCE(x, u) - BCE(x, t) = (t - u) x = s / 2 (2 t - 1) x``."""
    logits = logits.masked_fill((targets == -2)[..., None], 0)
    hard = targets[..., None] == torch.arange(logits.shape[-1], device=logits.device)
    margin = torch.where(hard, logits, -logits)
    # (1 - p_t)^gamma by its logarithm: its gradient stays finite where 1 - p_t underflows.
    focus = torch.exp(gamma * F.logsigmoid(-margin))
    term = focus * margin
    return torch.where(hard, alpha * term, (1 - alpha) * term).sum()


def _check(
    logits: Tensor, targets: Tensor, num_positives: Tensor, real: int, alpha: float, label_smoothing: float
) -> None:
    if logits.dim() == 0 or targets.shape != logits.shape[:-1]:
        raise ValueError(
            f"focal_loss: expected cls_output [..., P] and targets [...], got {list(logits.shape)} and"
            f" {list(targets.shape)}"
        )
    if targets.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"focal_loss: expected targets of int64 or int32, got {targets.dtype}")
    if num_positives.numel() != 1:
        raise ValueError(
            f"focal_loss: expected num_positives_sum with one element, got {list(num_positives.shape)}"
        )
    if not 0 < real <= logits.shape[-1]:
        raise ValueError(f"focal_loss: expected num_real_classes in [1, {logits.shape[-1]}], got {real}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"focal_loss: expected alpha in [0, 1], got {alpha}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"focal_loss: expected label_smoothing in [0, 1], got {label_smoothing}")
