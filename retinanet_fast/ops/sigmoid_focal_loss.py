"""The focal loss of independent binary classifiers, one per class."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.focal_losses import check_sigmoid_focal_loss

_sigmoid_focal_loss = torch.ops.retinanet_fast.sigmoid_focal_loss.default


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Tensor:
    r"""Focal loss of each logit ``x`` with its target ``t`` (Lin et al., "Focal Loss for Dense Object Detection",
    https://arxiv.org/abs/1708.02002).

    .. math::

        p &= \text{sigmoid}(x), \quad \text{ce} = -t \log p - (1 - t) \log(1 - p) \\
        p_t &= p t + (1 - p)(1 - t), \quad a_t = \alpha t + (1 - \alpha)(1 - t) \\
        \text{loss} &= a_t \, (1 - p_t)^\gamma \, \text{ce}

    No close numbers are subtracted, so that loss and gradients are finite and accurate for every finite logit.
    float16 and bfloat16 are computed in float32. Sums are kept in float64 and added in a fixed order: the same bits on
    every run and for any number of threads.

    Args:
        inputs: logits, floating point, of any shape.
        targets: either ``t`` itself, floating point in the shape of ``inputs`` with values in [0, 1] (one-hot targets
            too: ``torch.nn.functional.one_hot(...).float()``), or class indices, int64 or int32 of shape
            ``inputs.shape[:-1]`` for logits ``[..., K]``. With an index ``k`` in [0, K), class ``k`` has t = 1 and the
            others t = 0; with -1 (background) all have t = 0; with -2 (ignored) the row has no loss and no gradient.
        alpha: the weight of t = 1, in [0, 1]; t = 0 has ``1 - alpha``. -1 leaves ``a_t`` out.
        gamma: exponent, finite and not negative; 2 is the fastest.
        reduction: ``"none"``, ``"sum"``, or ``"mean"``, which divides by ``inputs.numel()``, ignored rows included.

    Returns:
        The losses in the shape of ``inputs``, or a scalar, in the dtype of ``inputs``, or in the wider one where float
        targets have another. Under autocast, whose dtypes are narrow, the loss is float32 at least, as torchvision's:
        reduced, the logits are read as they are; with "none" they are copied to float32. Of no elements at all the sum
        is 0 and the mean NaN. A NaN logit makes its loss and gradient NaN.

        Differentiable once by ``inputs`` and by float ``targets``. A reduced loss is computed together with its
        gradient by ``inputs`` (except in float16 and while being traced), which is kept until the backward pass; a
        second backward pass, after ``retain_graph=True``, computes it again. Under ``torch.func``'s transforms and for
        the dual tensors of forward-mode AD plain PyTorch computes the loss, with derivatives of any order.

    Raises:
        ValueError: shapes that do not match, tensors on different devices, ``alpha``, ``gamma`` or ``reduction``
            other than these.
        TypeError: a dtype other than these.
        IndexError: an integer target outside [-2, K). On CUDA its row counts as ignored, and the next call, or
            :func:`retinanet_fast.synchronize_errors`, raises the error.
        NotImplementedError: a second derivative by ``torch.autograd``; ``torch.func`` has one.
    """
    return _sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)


def _like(inputs: Tensor, targets: Tensor) -> Tensor:
    layout = torch.preserve_format if targets.is_floating_point() else torch.contiguous_format
    return torch.empty_like(inputs, memory_format=layout)


@torch.library.register_fake("retinanet_fast::sigmoid_focal_loss")
def _fake_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    wide_loss: bool = False,
) -> Tensor:
    check_sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)
    dtype = inputs.dtype
    if targets.is_floating_point():
        dtype = torch.promote_types(dtype, targets.dtype)
    if wide_loss:
        dtype = torch.promote_types(dtype, torch.float32)
    return _like(inputs, targets).to(dtype) if reduction == "none" else inputs.new_empty((), dtype=dtype)


@torch.library.register_fake("retinanet_fast::sigmoid_focal_loss_with_gradient")
def _(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str, wide_loss: bool
) -> tuple[Tensor, Tensor]:
    loss = _fake_loss(inputs, targets, alpha, gamma, reduction, wide_loss)
    return loss, _like(inputs, targets)


@torch.library.register_fake("retinanet_fast::sigmoid_focal_loss_backward")
def _(
    grad_output: Tensor,
    inputs: Tensor,
    targets: Tensor,
    alpha: float,
    gamma: float,
    reduction: str,
    targets_grad: bool,
) -> tuple[Tensor, Tensor]:
    grad_targets = _like(inputs, targets) if targets_grad else inputs.new_empty(0)
    return _like(inputs, targets), grad_targets
