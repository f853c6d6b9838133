"""compat.detr beside literal values of DINO's ``models/dino/utils.py`` (commit 66d7173), and beside its formula."""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import DEVICES, DTYPES, assert_close, non_contiguous
from focal_cases import logits, soft_targets
from torch import Tensor
from torch.nn import functional as F

from retinanet_fast.compat.detr import sigmoid_focal_loss

X = torch.tensor([[-3.0, -0.5, 0.25], [1.5, 4.0, -20.0]])
HARD = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
X3, HARD3 = torch.stack([X, X.flip(0) * 0.5]), torch.stack([HARD, HARD.flip(1)])
# Literals have seven digits.
SEVEN_DIGITS = {"rtol": 2e-6, "atol": 1e-9}


def in_plain_pytorch(x: Tensor, t: Tensor, num_boxes: float | Tensor, alpha: float, gamma: float) -> Tensor:
    """The focal loss by its definition, and the family's reduction."""
    p = x.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(x, t, reduction="none")
    loss = cross_entropy * (t * (1 - p) + (1 - t) * p) ** gamma
    if alpha >= 0:
        loss = loss * (t * alpha + (1 - t) * (1 - alpha))
    return loss.mean(1).sum() / num_boxes


def test_signature() -> None:
    parameters = list(inspect.signature(sigmoid_focal_loss).parameters.values())
    assert [p.name for p in parameters] == ["inputs", "targets", "num_boxes", "alpha", "gamma"]
    assert [p.default for p in parameters] == [inspect.Parameter.empty] * 3 + [0.25, 2]


def test_literals() -> None:
    x = X3.clone().requires_grad_()
    loss = sigmoid_focal_loss(x, HARD3, 3)
    torch.testing.assert_close(loss.detach(), torch.tensor(1.498951), **SEVEN_DIGITS)
    loss.backward()
    grad = [3.935896e-05, -0.02192299, 0.05078043, -0.0007096297, 0.1357995, -0.04166667]
    grad += [0.08122304, -0.0002029561, 3.530186e-14, -0.04005937, 0.02600705, -0.01044684]
    torch.testing.assert_close(x.grad, torch.tensor(grad).view(2, 2, 3), **SEVEN_DIGITS)
    torch.testing.assert_close(sigmoid_focal_loss(X, HARD, 2.0), torch.tensor(1.366344), **SEVEN_DIGITS)
    plain = sigmoid_focal_loss(X3, HARD3, torch.tensor([4.0]), -1, 1.5)
    torch.testing.assert_close(plain, torch.tensor([3.37777]), **SEVEN_DIGITS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 0.5), (-2, 2), (0.6, 0)])
@pytest.mark.parametrize("shape", [(2, 7, 5), (3, 64), (1, 1, 1), (2, 3, 4, 5)])
def test_equals_the_formula(shape: tuple[int, ...], alpha: float, gamma: float, device: str) -> None:
    results = []
    for function in (sigmoid_focal_loss, in_plain_pytorch):
        x = logits(*shape, dtype=torch.float64, device=device).requires_grad_()
        t = soft_targets(*shape, dtype=torch.float64, device=device).requires_grad_()
        loss = function(x, t, 7.5, alpha, gamma)
        results.append([loss.detach(), *torch.autograd.grad(loss, [x, t])])
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_one_hot_targets_without_their_last_class() -> None:
    # As the criteria make them: background has a class of its own, which is cut off.
    classes = torch.tensor([[0, 3, 2], [3, 3, 1]])
    x, one_hot = logits(2, 3, 3), F.one_hot(classes, 4).float()[:, :, :-1]
    assert not one_hot.is_contiguous()
    expected = in_plain_pytorch(x, one_hot, 3.0, 0.25, 2)
    assert_close(sigmoid_focal_loss(x, one_hot, 3.0), expected)
    assert_close(sigmoid_focal_loss(non_contiguous(x), one_hot, 3.0), expected)
    labels = classes.where(classes < 3, -1)
    assert_close(sigmoid_focal_loss(x, labels, 3.0), expected)


@pytest.mark.parametrize("num_boxes", [3, 3.0, torch.tensor(3.0), torch.tensor([3.0]), torch.tensor(3)])
@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes_and_shapes(
    dtype: torch.dtype, autocast: torch.dtype | None, num_boxes: float | Tensor
) -> None:
    for targets_dtype in (dtype, torch.float32):
        x = logits(2, 6, 3, dtype=dtype).requires_grad_()
        t = soft_targets(2, 6, 3, dtype=targets_dtype)
        with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
            ours = sigmoid_focal_loss(x, t, num_boxes)
            theirs = in_plain_pytorch(x, t, num_boxes, 0.25, 2)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        exact = in_plain_pytorch(x.detach().double(), t.double(), num_boxes, 0.25, 2)
        assert_close(ours.detach(), exact.to(ours.dtype))
        (grad,) = torch.autograd.grad(ours.sum(), x)
        assert grad.dtype == dtype


def test_half_losses_do_not_overflow() -> None:
    x = torch.full((4, 10, 2000), 20.0, dtype=torch.float16)
    loss = sigmoid_focal_loss(x, torch.zeros_like(x), 8, alpha=-1)
    assert loss.dtype == torch.float16
    assert loss == 4 * 2000 * 20 / 8  # 160,000 before the division, which float16 does not hold


def test_empty_and_bad_input() -> None:
    assert sigmoid_focal_loss(X3[:0], HARD3[:0], 1) == 0
    assert sigmoid_focal_loss(X3[:, :0], HARD3[:, :0], 1).isnan()  # the mean of no queries, as theirs
    with pytest.raises(ValueError, match=r"expected inputs \[B, Q, C\] or \[N, HW\], got \[3\]"):
        sigmoid_focal_loss(X[0], HARD[0], 1)
    with pytest.raises(ValueError, match=r"inputs' shape \[2, 3\], got \[3\]"):
        sigmoid_focal_loss(X, HARD[0], 1)
    with pytest.raises(ValueError, match="expected alpha in"):
        sigmoid_focal_loss(X, HARD, 1, alpha=2)
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sigmoid_focal_loss(x, HARD, 1), x, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(grad.sum(), x)


def test_compile() -> None:
    compiled = torch.compile(sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    arguments = logits(2, 6, 3), soft_targets(2, 6, 3), torch.tensor(4.0)
    assert_close(compiled(*arguments), sigmoid_focal_loss(*arguments))
