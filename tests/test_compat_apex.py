"""compat.apex beside literal values of its kernel's arithmetic, its own test, and its formula in plain PyTorch.

The literals are ``apex/contrib/csrc/focal_loss/focal_loss_cuda_kernel.cu`` (commit 2b9b782), which runs on CUDA alone,
line by line in float64.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import DEVICES, DTYPES, assert_close, generator
from focal_cases import labels, logits
from torch import Tensor
from torch.nn import functional as F

from retinanet_fast.compat.apex import FocalLoss, focal_loss

X = torch.tensor([[-3.0, -0.5, 0.25, 9.0], [1.5, 4, -20, 9], [0.5, -1, 2, 9], [3, -2, 0, 9]])
Y = torch.tensor([1, -1, -2, 2])
POSITIVES = torch.tensor(4.0)
# (label_smoothing, alpha, gamma), loss, gradient; three real classes of four.
LITERALS = [
    (
        (0.0, 0.24, 2.0),
        1.560909,
        [
            [5.982565e-05, -0.03156911, 0.07718625, 0.0],
            [0.1826707, 0.2064152, 4.99121e-27, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.2140825, 0.0009254786, -0.01789721, 0.0],
        ],
    ),
    (
        (0.1, 0.24, 2.0),
        1.48788,
        [
            [0.000160583, -0.0299679, 0.07352658, 0.0],
            [0.1728454, 0.1959357, 1.574015e-18, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.2030093, 0.001266081, -0.01714721, 0.0],
        ],
    ),
    (
        (0.2, 0.25, 1.5),
        1.464538,
        [
            [0.0008627413, -0.03209848, 0.07809929, 0.0],
            [0.1583057, 0.1787472, 5.088207e-14, 0.0],
            [0.0, 0.0, 0.0, 0.0],
            [0.1827067, 0.003481303, -0.02032623, 0.0],
        ],
    ),
]


def in_plain_pytorch(
    x: Tensor, y: Tensor, positives: Tensor, classes: int, alpha: float, gamma: float, smoothing: float
) -> Tensor:
    """Smoothing over the two outcomes of each class moves the cross entropy's target, and nothing else."""
    x = x[y != -2][:, :classes]
    y = y[y != -2]
    t = F.one_hot(y.clamp(min=0), classes).to(x.dtype) * (y >= 0)[:, None]
    p = x.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(
        x, t * (1 - smoothing) + smoothing / 2, reduction="none"
    )
    weight = torch.where(t == 1, alpha * (1 - p) ** gamma, (1 - alpha) * p**gamma)
    return (weight * cross_entropy).sum() / positives


def test_signatures() -> None:
    tail = ["num_real_classes", "alpha", "gamma", "label_smoothing"]
    for function, count in ((focal_loss, "num_positive_sum"), (FocalLoss.apply, "num_positives_sum")):
        parameters = list(inspect.signature(function).parameters.values())
        assert [p.name for p in parameters] == ["cls_output", "cls_targets_at_level", count, *tail]
        assert [p.default for p in parameters] == [inspect.Parameter.empty] * 6 + [0.0]


@pytest.mark.parametrize(("arguments", "loss", "grad"), LITERALS)
def test_literals(arguments: tuple[float, float, float], loss: float, grad: list[list[float]]) -> None:
    smoothing, alpha, gamma = arguments
    x = X.clone().requires_grad_()
    actual = FocalLoss.apply(x, Y, POSITIVES, 3, alpha, gamma, smoothing)
    # float32 against float64 with seven digits.
    torch.testing.assert_close(actual.detach(), torch.tensor(loss), rtol=2e-6, atol=0.0)
    actual.backward()
    torch.testing.assert_close(x.grad, torch.tensor(grad), rtol=5e-6, atol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
def test_one_row_at_a_time_as_in_its_own_test(device: str) -> None:
    # apex/contrib/test/focal_loss/test_focal_loss.py: rows by themselves, against torchvision's formula of all.
    x = torch.randn(12, 8, generator=generator(42)).to(device)
    classes = torch.randint(0, 8, (12,), generator=generator(43)).to(device)
    whole, rows = x.clone().requires_grad_(), x.clone().requires_grad_()
    one = torch.ones([], device=device)
    expected = in_plain_pytorch(whole, classes, one, 8, 0.24, 2.0, 0.0)
    actual = sum(
        FocalLoss.apply(rows[i : i + 1], classes[i : i + 1], one, 8, 0.24, 2.0, 0.0) for i in range(12)
    )
    assert_close(actual, expected)
    expected.backward()
    actual.backward()
    assert whole.grad is not None
    assert_close(rows.grad, whole.grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.5), (1.0, 0.0)])
@pytest.mark.parametrize("classes", [6, 8])
def test_equals_the_formula(classes: int, alpha: float, gamma: float, smoothing: float, device: str) -> None:
    y = labels(50, classes=classes, device=device)
    results = []
    for function in (focal_loss, in_plain_pytorch):
        x = logits(50, 8, device=device, dtype=torch.float64).requires_grad_()
        loss = function(x, y, torch.tensor(17.0, device=device), classes, alpha, gamma, smoothing)
        loss.backward()
        results.append((loss.detach(), x.grad))
    (ours, grad), (theirs, expected) = results
    assert ours.dtype == torch.float32
    assert_close(ours, theirs.float())
    assert_close(grad, expected)
    assert grad is not None
    assert not grad[:, classes:].any()
    assert not grad[y == -2].any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype: torch.dtype, smoothing: float) -> None:
    x, y = logits(50, 8, dtype=dtype).requires_grad_(), labels(50, classes=6)
    loss = focal_loss(x, y, torch.tensor([9.0]), 6, 0.25, 2.0, smoothing)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    exact = x.detach().double().requires_grad_()
    expected = in_plain_pytorch(exact, y, torch.tensor(9.0), 6, 0.25, 2.0, smoothing)
    assert_close(loss.detach(), expected.detach().float())
    loss.backward()
    expected.backward()
    assert x.grad is not None
    assert exact.grad is not None
    assert x.grad.dtype == dtype
    assert_close(x.grad, exact.grad.to(dtype))


def test_half_losses_do_not_overflow() -> None:
    x = torch.full((3000, 8), 20.0, dtype=torch.float16)
    loss = focal_loss(x, torch.full((3000,), -1), torch.ones(()), 8, 0.0, 2.0)
    assert loss == pytest.approx(3000 * 8 * 20, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_finite_for_large_logits(gamma: float, smoothing: float) -> None:
    x = torch.tensor([[100.0, -100], [-100, 100], [1e4, -1e4]]).requires_grad_()
    loss = focal_loss(x, torch.tensor([0, 0, -1]), torch.ones(()), 2, 0.25, gamma, smoothing)
    loss.backward()
    assert loss.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_leading_dimensions_and_ignored_rows_with_nan() -> None:
    x = X.view(2, 2, 4).clone()
    x[1, 0] = torch.nan  # the ignored row
    x.requires_grad_()
    for smoothing in (0.0, 0.1):
        loss = focal_loss(x, Y.view(2, 2), POSITIVES, 3, 0.24, 2.0, smoothing)
        assert_close(loss.detach(), focal_loss(X, Y, POSITIVES, 3, 0.24, 2.0, smoothing))
        (grad,) = torch.autograd.grad(loss, x)
        assert not grad[1, 0].any()


def test_second_backward_pass_gives_the_same_gradient() -> None:
    # apex scales its saved gradient in place, so that there the second one is wrong.
    x = X.clone().requires_grad_()
    loss = focal_loss(x, Y, POSITIVES, 3, 0.24, 2.0)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)
    positives = POSITIVES.clone().requires_grad_()
    loss = focal_loss(X.clone().requires_grad_(), Y, positives, 3, 0.24, 2.0)
    loss.backward()
    assert positives.grad is None


def test_empty_and_bad_input() -> None:
    assert focal_loss(X[:0], Y[:0], POSITIVES, 3, 0.25, 2.0) == 0
    assert focal_loss(X[:0], Y[:0], POSITIVES, 3, 0.25, 2.0, 0.1) == 0
    tail = (POSITIVES, 3, 0.25, 2.0)
    with pytest.raises(
        ValueError, match=r"expected cls_output \[..., P\] and targets \[...\], got \[4, 4\] and \[2\]"
    ):
        focal_loss(X, Y[:2], *tail)
    with pytest.raises(TypeError, match=r"expected targets of int64 or int32, got torch\.float32"):
        focal_loss(X, Y.float(), *tail)
    with pytest.raises(ValueError, match=r"num_positives_sum with one element, got \[2\]"):
        focal_loss(X, Y, torch.ones(2), 3, 0.25, 2.0)
    with pytest.raises(ValueError, match=r"expected num_real_classes in \[1, 4\], got 5"):
        focal_loss(X, Y, POSITIVES, 5, 0.25, 2.0)
    with pytest.raises(ValueError, match=r"expected alpha in \[0, 1\], got -1"):
        focal_loss(X, Y, POSITIVES, 3, -1, 2.0)
    with pytest.raises(ValueError, match=r"expected label_smoothing in \[0, 1\], got 1.5"):
        focal_loss(X, Y, *tail, 1.5)
    for smoothing in (0.0, 0.1):
        for bad in (3, -3):  # of the padded classes, and below -2
            with pytest.raises(IndexError, match=str(bad)):
                focal_loss(X, torch.tensor([1, -1, -2, bad]), *tail, smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_compile(smoothing: float) -> None:
    compiled = torch.compile(focal_loss, fullgraph=True, backend="aot_eager")
    arguments = X, Y, POSITIVES, 3, 0.25, 2.0, smoothing
    assert_close(compiled(*arguments), focal_loss(*arguments))
