import itertools
import math

import pytest
import torch
from cases import ATOL, DEVICES, DTYPES, RTOL, assert_close, generator, non_contiguous, num_threads
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference

GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.0]
REDUCTIONS = ["none", "mean", "sum"]
# One class, fewer classes than a vector or a warp, more, and more rows than a tile.
SHAPES = [(1, 1), (3, 2), (70, 5), (200, 33), (65, 1001)]


def case(
    rows: int, classes: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor]:
    x = torch.randn(rows, classes, generator=generator(seed), dtype=torch.float64) * 3
    targets = torch.randint(0, classes, (rows,), generator=generator(seed + 1))
    return x.to(device=device, dtype=dtype), targets.to(device)


def loss_and_grad(op, x: Tensor, targets: Tensor, *args: object, upstream: float = 1.0) -> list[Tensor]:
    x = x.detach().requires_grad_()
    loss = op(x, targets, *args)
    return [loss.detach(), *torch.autograd.grad(loss, x, torch.full_like(loss, upstream))]


def assert_same(x: Tensor, targets: Tensor, *args: object, upstream: float = 1.0) -> None:
    actual = loss_and_grad(ops.softmax_focal_loss, x, targets, *args, upstream=upstream)
    expected = loss_and_grad(reference.softmax_focal_loss, x, targets, *args, upstream=upstream)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == x.dtype
        assert a.shape == b.shape
        # Four times: the twin makes 1 - p_t of a rounded log p_t, in float32 a few 1e-7 over p_t.
        assert_close(a, b, scale=4)


@pytest.mark.parametrize(("p", "expected"), [(0.1, -0.2025), (0.9, -0.000114)])
def test_worked_examples(p: float, expected: float) -> None:
    # 0.25 (1 - p)^2 log10(p), published with base-10 logarithms and this many digits.
    x = torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)
    loss = ops.softmax_focal_loss(x, torch.tensor([0]), alpha=0.25)
    assert -loss.item() / math.log(10) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    x, targets = case(*shape, dtype=dtype, device=device)
    weights = torch.rand(shape[1], generator=generator(9)).to(device)
    for alpha, reduction in itertools.product([None, 0.25, weights, weights.tolist()], REDUCTIONS):
        assert_same(x, targets, alpha, 2.0, reduction)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_every_gamma(gamma: float, dtype: torch.dtype, device: str) -> None:
    x, targets = case(41, 11, dtype=dtype, device=device)
    for reduction in REDUCTIONS:
        assert_same(x, targets, 0.7, gamma, reduction, upstream=0.3)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gradcheck(reduction: str, gamma: float) -> None:
    x, targets = case(6, 5, dtype=torch.float64)
    weights = torch.rand(5, dtype=torch.float64, generator=generator(9))

    def loss(x: Tensor) -> Tensor:
        return ops.softmax_focal_loss(x, targets, weights, gamma, reduction)

    assert torch.autograd.gradcheck(loss, (x.requires_grad_(),), eps=1e-6, atol=1e-6)


def test_gamma_zero_is_cross_entropy() -> None:
    x, targets = case(30, 7, dtype=torch.float64)
    actual = ops.softmax_focal_loss(x, targets, gamma=0.0)
    assert_close(actual, torch.nn.functional.cross_entropy(x, targets))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gamma", GAMMAS)
def test_large_logits(gamma: float, dtype: torch.dtype, device: str) -> None:
    values = [-100.0, -88.0, -50.0, -17.0, -1e-3, 0.0, 1e-3, 17.0, 50.0, 88.0, 100.0]
    x = torch.tensor([[value, -value, 0.0] for value in values], dtype=dtype, device=device)
    targets = torch.zeros(len(values), dtype=torch.long, device=device)
    results = loss_and_grad(ops.softmax_focal_loss, x, targets, None, gamma, "none")
    assert all(result.isfinite().all() for result in results)
    expected = loss_and_grad(reference.softmax_focal_loss, x.double(), targets, None, gamma, "none")
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2 * RTOL[dtype], atol=ATOL[dtype])


def test_small_losses_keep_their_relative_precision() -> None:
    # 1 - p_t = 1e-9 / (1 + 1e-9): in float32 p_t itself is 1.
    x = torch.tensor([[0.0, math.log(1e-9)]])
    loss, grad = loss_and_grad(ops.softmax_focal_loss, x, torch.tensor([0]), None, 1.0)
    # loss = m n and d loss / d x_t = -m (n p + m) with m = n = 1e-9 but for 1 + O(m); the logit's own rounding moves m
    # by 20.7 * 2^-24 = 1.2e-6 of itself.
    assert loss.item() == pytest.approx(1e-18, rel=5e-6)
    assert grad[0, 0].item() == pytest.approx(-2e-18, rel=5e-6)


def test_nan_stays_in_its_row_and_visible() -> None:
    x, targets = case(6, 5)
    for column in range(5):
        poisoned = x.clone()
        poisoned[2, column] = math.nan
        loss, grad = loss_and_grad(ops.softmax_focal_loss, poisoned, targets, None, 2.0, "none")
        assert loss.isnan().tolist() == [row == 2 for row in range(6)]
        assert grad[2].isnan().all()
        assert grad.isnan().sum() == 5


def test_impossible_class_has_infinite_loss() -> None:
    x = torch.tensor([[-math.inf, 0.0, 1.0]])
    assert ops.softmax_focal_loss(x, torch.tensor([0])).item() == math.inf
    assert ops.softmax_focal_loss(x, torch.tensor([1])).isfinite()


@pytest.mark.parametrize("device", DEVICES)
def test_empty(device: str) -> None:
    x, targets = torch.empty(0, 4, device=device), torch.empty(0, dtype=torch.long, device=device)
    for reduction in REDUCTIONS:
        assert_same(x, targets, 0.5, 2.0, reduction)


@pytest.mark.parametrize("device", DEVICES)
def test_non_contiguous(device: str) -> None:
    x, targets = case(37, 5, device=device)
    expected = loss_and_grad(ops.softmax_focal_loss, x, targets)
    for strided in (non_contiguous(x), x.t().contiguous().t()):
        actual = loss_and_grad(ops.softmax_focal_loss, strided, non_contiguous(targets))
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_int32_targets() -> None:
    x, targets = case(20, 4)
    assert torch.equal(ops.softmax_focal_loss(x, targets.int()), ops.softmax_focal_loss(x, targets))


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 200),
    classes=st.integers(1, 100),
    gamma=st.sampled_from([0.0, 0.7, 2.0, 4.0]),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 1000),
)
def test_any_shape(rows: int, classes: int, gamma: float, reduction: str, seed: int) -> None:
    x, targets = case(rows, classes, seed=seed)
    assert_same(x, targets, None, gamma, reduction)


def test_same_bits_on_any_number_of_threads() -> None:
    x, targets = case(3000, 31)
    results = []
    for threads in (1, 2, 3, 2):
        with num_threads(threads):
            results.append(loss_and_grad(ops.softmax_focal_loss, x, targets))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_backward_twice_and_second_derivative() -> None:
    x, targets = case(8, 4)
    x.requires_grad_()
    loss = ops.softmax_focal_loss(x, targets)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (second,) = torch.autograd.grad(loss, x, create_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(NotImplementedError, match="softmax_focal_loss: has no second derivative"):
        second.sum().backward()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"inputs": torch.zeros(4)}, ValueError, r"expected inputs \[N, C\], got \[4\]"),
        ({"inputs": torch.zeros(4, 3).long()}, TypeError, "expected inputs of float64"),
        ({"targets": torch.zeros(3).long()}, ValueError, r"expected targets \[4\], got \[3\]"),
        ({"targets": torch.zeros(4)}, TypeError, "expected targets of int64 or int32, got Float"),
        (
            {"targets": torch.tensor([0, 3, 1, 2])},
            IndexError,
            r"expected class indices in \[0, 3\), got 3 at row 1",
        ),
        ({"targets": torch.tensor([0, 1, -1, 3])}, IndexError, "got -1 at row 2"),
        ({"alpha": [1.0, 2.0]}, ValueError, r"a number or one weight per class, \[3\], got \[2\]"),
        ({"alpha": torch.ones(3, requires_grad=True)}, ValueError, "expected alpha to need no gradient"),
        ({"alpha": -0.5}, ValueError, "expected a finite alpha >= 0, got -0.5"),
        ({"gamma": -1.0}, ValueError, "expected a finite gamma >= 0, got -1"),
        ({"reduction": "avg"}, ValueError, "expected reduction 'none', 'mean' or 'sum', got 'avg'"),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_bad_input(requires_grad: bool, arguments: dict, error: type[Exception], message: str) -> None:
    arguments = {"inputs": torch.zeros(4, 3), "targets": torch.zeros(4).long(), **arguments}
    if arguments["inputs"].is_floating_point():
        arguments["inputs"] = arguments["inputs"].clone().requires_grad_(requires_grad)
    with pytest.raises(error, match="softmax_focal_loss: .*" + message):
        ops.softmax_focal_loss(**arguments)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 2.0, 0.5, 0.0])])
def test_opcheck_and_compile(weights: Tensor | None, reduction: str) -> None:
    x, targets = case(9, 4)
    arguments = (x.clone().requires_grad_(), targets, weights, 0.25, 2.0, reduction)
    torch.library.opcheck(torch.ops.retinanet_fast.softmax_focal_loss.default, arguments)
    compiled = torch.compile(ops.softmax_focal_loss, fullgraph=True, backend="aot_eager")
    actual = loss_and_grad(compiled, x, targets, weights, 2.0, reduction)
    expected = loss_and_grad(ops.softmax_focal_loss, x, targets, weights, 2.0, reduction)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


def test_binding_in_the_module() -> None:
    from retinanet_fast import _ext

    x, targets = case(9, 4)
    assert torch.equal(_ext._C.softmax_focal_loss(x, targets), ops.softmax_focal_loss(x, targets))
