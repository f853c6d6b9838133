"""The focal loss of a classifier with exclusive classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.focal_losses import check_softmax_focal_loss

_softmax_focal_loss = torch.ops.retinanet_fast.softmax_focal_loss.default


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Sequence[float] | Tensor | None = None,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    r"""The categorical focal loss of each row of logits ``x`` with its class ``t`` (Lin et al., "Focal Loss for Dense
    Object Detection", https://arxiv.org/abs/1708.02002).

    .. math::

        p = \text{softmax}(x), \quad \text{loss} = -\alpha_t \, (1 - p_t)^\gamma \, \ln p_t

    ``1 - p_t`` is the sum of the other classes' probabilities, so that the loss keeps its precision where ``p_t`` is
    close to 1. Loss and gradient are finite for logits that differ by hundreds. float16 and bfloat16 are computed in
    float32. Sums are kept in float64 and added in a fixed order: the same bits on every run and for any number of
    threads.

    Args:
        inputs: ``[N, C]`` logits, floating point.
        targets: ``[N]`` class indices in [0, C), int64 or int32.
        alpha: a number >= 0, or one weight per class (a sequence, or a tensor ``[C]`` that needs no gradient). None: 1.
        gamma: exponent, finite and not negative.
        reduction: ``"mean"``, which divides by N whatever the weights, ``"sum"`` or ``"none"``.

    Returns:
        A scalar, or the losses ``[N]``, in the dtype of ``inputs``; under autocast in float32 at least, as
        :func:`sigmoid_focal_loss` has it. Of no rows at all the sum is 0 and the mean NaN. A NaN logit makes its row's
        loss and gradient NaN. Differentiable once by ``inputs``; by ``torch.func`` and forward-mode AD as
        :func:`sigmoid_focal_loss`.

    Raises:
        ValueError: shapes that do not match, tensors on different devices, ``alpha``, ``gamma`` or ``reduction``
            other than these.
        TypeError: a dtype other than these.
        IndexError: a target outside [0, C). On CUDA its row has no loss, and the next call, or
            :func:`retinanet_fast.synchronize_errors`, raises the error.
        NotImplementedError: a second derivative by ``torch.autograd``; ``torch.func`` has one.
    """
    if alpha is None:
        return _softmax_focal_loss(inputs, targets, None, 1.0, gamma, reduction)
    if isinstance(alpha, int | float):
        return _softmax_focal_loss(inputs, targets, None, float(alpha), gamma, reduction)
    weights = torch.as_tensor(alpha, dtype=torch.float64, device=inputs.device)
    if weights.dim() == 0:
        weights = weights.expand(inputs.shape[1])
    return _softmax_focal_loss(inputs, targets, weights, 1.0, gamma, reduction)


@torch.library.register_fake("retinanet_fast::softmax_focal_loss")
def _(
    inputs: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    alpha: float = 1.0,
    gamma: float = 2.0,
    reduction: str = "mean",
    wide_loss: bool = False,
) -> Tensor:
    check_softmax_focal_loss(inputs, targets, class_weights, alpha, gamma, reduction)
    dtype = torch.promote_types(inputs.dtype, torch.float32) if wide_loss else inputs.dtype
    return inputs.new_empty(inputs.shape[0] if reduction == "none" else (), dtype=dtype)


@torch.library.register_fake("retinanet_fast::softmax_focal_loss_backward")
def _(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    class_weights: Tensor | None,
    alpha: float,
    gamma: float,
    reduction: str,
) -> Tensor:
    return torch.empty_like(inputs, memory_format=torch.contiguous_format)
