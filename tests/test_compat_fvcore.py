"""compat.fvcore beside literal values of fvcore 0.1.5.post20221221, and beside the real one where it is installed."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import ATOL, DTYPES, RTOL, assert_close, random_boxes
from focal_cases import REDUCTIONS, logits, soft_targets
from torch import Tensor

from retinanet_fast.compat import fvcore as compat

X = torch.tensor([[-3.0, -0.5, 0.25], [1.5, 4.0, -20.0]])
HARD = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
SOFT = torch.tensor([[0.0, 0.25, 0.5], [1, 0.75, 1]])
BOXES1 = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [0, 0, 4, 4]])
BOXES2 = torch.tensor([[5.0, 0, 15, 10], [0, 0, 20, 20], [10, 10, 12, 14]])
# Literals have seven digits.
SEVEN_DIGITS = {"rtol": 2e-6, "atol": 1e-9}
FOCAL_LOSSES = ["sigmoid_focal_loss", "sigmoid_focal_loss_star"]


@pytest.fixture
def original() -> ModuleType:
    return pytest.importorskip("fvcore.nn", reason="fvcore is not installed here")


def close(actual: Tensor, expected: list[Any] | float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), **SEVEN_DIGITS)


def test_signatures(original: ModuleType) -> None:
    for name in (*FOCAL_LOSSES, "smooth_l1_loss", "giou_loss"):
        ours, theirs = (
            [
                (p.name, p.default, p.kind)
                for p in inspect.signature(getattr(module, name)).parameters.values()
            ]
            for module in (compat, original)
        )
        assert ours == theirs, name
    for name in FOCAL_LOSSES:
        assert callable(getattr(original, f"{name}_jit"))
        assert getattr(compat, f"{name}_jit") is getattr(compat, name)


def test_focal_loss_literals() -> None:
    none = [[0.0001092832, 0.3774116, 0.2610319], [0.00670285, 3.874907, 20.0]]
    close(compat.sigmoid_focal_loss(X, HARD), none)
    close(compat.sigmoid_focal_loss(X, HARD, reduction="mean"), 4.086693)
    close(compat.sigmoid_focal_loss_jit(X, SOFT, -1, 2, "sum"), 20.36567)
    weighted = [[0.0003763632, 0.1088225, 0.1239097], [0.003923347, 0.05032402, 5.0]]
    close(compat.sigmoid_focal_loss(X, SOFT, 0.25, 1.5), weighted)
    star = [[0.04858735, 0.974077, 0.8259394], [0.2014133, 4.01815, 20.0]]
    close(compat.sigmoid_focal_loss_star(X, HARD), star)
    close(compat.sigmoid_focal_loss_star_jit(X, HARD, -1, 1, "mean"), sum(map(sum, star)) / 6)
    soft_star = [[0.0009283819, 0.1481491, 0.1732868], [0.006073419, 0.003403112, 5.0]]
    close(compat.sigmoid_focal_loss_star(X, SOFT, 0.25, 2.0), soft_star)


def loss_and_gradients(function: Any, first: Tensor, second: Tensor, *args: object) -> list[Tensor]:
    leaves = [first.detach().requires_grad_(), second.detach().requires_grad_()]
    loss = function(*leaves, *args)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("alpha", "gamma"), [(-1, 2), (-3, 0.5), (0.25, 2), (0.7, 1)])
@pytest.mark.parametrize("name", FOCAL_LOSSES)
def test_focal_loss_and_gradients(
    original: ModuleType, name: str, alpha: float, gamma: float, reduction: str
) -> None:
    arguments = logits(6, 5), soft_targets(6, 5), alpha, gamma, reduction
    for ours, theirs in zip(
        loss_and_gradients(getattr(compat, name), *arguments),
        loss_and_gradients(getattr(original, name), *arguments),
        strict=True,
    ):
        assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FOCAL_LOSSES)
def test_focal_loss_is_float32(original: ModuleType, name: str, dtype: torch.dtype, reduction: str) -> None:
    arguments = logits(40, 5, dtype=dtype), soft_targets(40, 5, dtype=dtype), 0.25, 2, reduction
    ours = loss_and_gradients(getattr(compat, name), *arguments)
    theirs = loss_and_gradients(getattr(original, name), *arguments)
    assert [x.dtype for x in ours] == [x.dtype for x in theirs] == [torch.float32, dtype, dtype]
    for a, b in zip(ours, theirs, strict=True):
        # Computed in float32 here and there, so no closer than that for float64 gradients.
        narrow = max(RTOL[dtype], RTOL[torch.float32]), max(ATOL[dtype], ATOL[torch.float32])
        torch.testing.assert_close(a, b, rtol=narrow[0], atol=narrow[1])


@pytest.mark.parametrize("targets_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_targets_of_another_dtype_are_not_rounded(
    original: ModuleType, dtype: torch.dtype, targets_dtype: torch.dtype
) -> None:
    for reduction in REDUCTIONS:
        arguments = logits(6, 5, dtype=dtype), soft_targets(6, 5, dtype=targets_dtype), 0.25, 2, reduction
        ours, theirs = compat.sigmoid_focal_loss(*arguments), original.sigmoid_focal_loss(*arguments)
        assert_close(ours, theirs)


def test_half_losses_do_not_overflow() -> None:
    x = torch.full((3000, 50), 20.0, dtype=torch.float16)
    loss = compat.sigmoid_focal_loss(x, torch.zeros_like(x), reduction="sum")
    assert loss == pytest.approx(3000 * 50 * 20, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool, torch.uint8])
@pytest.mark.parametrize("name", FOCAL_LOSSES)
def test_integer_targets_are_numbers(original: ModuleType, name: str, dtype: torch.dtype) -> None:
    ours = getattr(compat, name)(X, HARD.to(dtype))
    assert_close(ours, getattr(original, name)(X, HARD.to(dtype)))
    assert torch.equal(ours, getattr(compat, name)(X, HARD))


def test_empty_and_bad_input() -> None:
    for name in FOCAL_LOSSES:
        function = getattr(compat, name)
        assert function(X[:0], HARD[:0]).shape == (0, 3)
        assert function(X[:0], HARD[:0], reduction="sum") == 0
        assert function(X[:0], HARD[:0], reduction="mean").isnan()
        with pytest.raises(ValueError, match="expected reduction 'none', 'mean' or 'sum', got 'batch'"):
            function(X, HARD, reduction="batch")
    with pytest.raises(ValueError, match="expected alpha in"):
        compat.sigmoid_focal_loss(X, HARD, alpha=1.5)
    with pytest.raises(ValueError, match=r"inputs' shape \[2, 3\], got \[3\]"):
        compat.sigmoid_focal_loss(X, HARD[0])
    for function in (compat.smooth_l1_loss, compat.giou_loss):
        with pytest.raises(ValueError, match=f"{function.__name__}: expected reduction .* got 'batch'"):
            function(
                BOXES1, BOXES2, **({"beta": 1.0} if "smooth" in function.__name__ else {}), reduction="batch"
            )


def test_second_derivative_raises() -> None:
    x = X.clone().requires_grad_()
    (grad,) = torch.autograd.grad(compat.sigmoid_focal_loss(x, HARD).sum(), x, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.autograd.grad(grad.sum(), x)


def test_smooth_l1_literals() -> None:
    d = torch.tensor([-2.0, -0.1, 0.0, 0.05, 0.11, 3.0])
    close(compat.smooth_l1_loss(d, torch.zeros(6), 0.11), [1.945, 0.04545455, 0.0, 0.01136364, 0.055, 2.945])
    close(compat.smooth_l1_loss(d, torch.zeros(6), 0.0), [2.0, 0.1, 0.0, 0.05, 0.11, 3.0])
    close(compat.smooth_l1_loss(d, torch.zeros(6), 1.0, "mean"), 0.6687167)
    assert compat.smooth_l1_loss(d[:0], d[:0], 1.0, "mean") == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("beta", [0.0, 1e-6, 0.1, 2.0])
def test_smooth_l1_and_gradients(original: ModuleType, beta: float, reduction: str) -> None:
    for target in (logits(30, 4, seed=1), logits(4, seed=1), logits(30, 4)):  # the last: differences of 0
        arguments = logits(30, 4), target, beta, reduction
        for ours, theirs in zip(
            loss_and_gradients(compat.smooth_l1_loss, *arguments),
            loss_and_gradients(original.smooth_l1_loss, *arguments),
            strict=True,
        ):
            assert_close(ours, theirs)
    half = logits(5).half(), logits(5, seed=1), beta, reduction
    assert compat.smooth_l1_loss(*half).dtype == original.smooth_l1_loss(*half).dtype


def test_giou_literals() -> None:
    close(compat.giou_loss(BOXES1, BOXES2), [0.6666666, 0.7666667, 1.857143])
    close(compat.giou_loss(BOXES1, BOXES2, "mean"), 1.096825)
    close(compat.giou_loss(BOXES1[0], BOXES2[0]), 0.6666666)
    assert compat.giou_loss(BOXES1[:0], BOXES2[:0], "mean") == 0
    bad = BOXES1.clone()
    bad[1, 2] = 4
    with pytest.raises(ValueError, match=r"x1 <= x2 and y1 <= y2, got \[5.0, 5.0, 4.0, 25.0\] in row 1"):
        compat.giou_loss(bad, BOXES2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_giou_and_gradients(original: ModuleType, reduction: str, dtype: torch.dtype) -> None:
    first = torch.cat([random_boxes(20, seed=1, dtype=dtype), BOXES1.to(dtype)])
    second = torch.cat([random_boxes(20, seed=2, dtype=dtype), BOXES2.to(dtype)])
    for ours, theirs in zip(
        loss_and_gradients(compat.giou_loss, first, second, reduction, 1e-6),
        loss_and_gradients(original.giou_loss, first, second, reduction, 1e-6),
        strict=True,
    ):
        assert_close(ours, theirs)


def test_compile() -> None:
    def loss(x: Tensor, t: Tensor) -> Tensor:
        return (
            compat.sigmoid_focal_loss_jit(x, t, reduction="sum")
            + compat.sigmoid_focal_loss_star_jit(x, t).sum()
        )

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(X, SOFT), loss(X, SOFT))
