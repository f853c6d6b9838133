"""The values of `sigmoid_focal_loss` and its gradients, in every layout, dtype and shape."""

import itertools
import math

import pytest
import torch
from cases import ATOL, DEVICES, DTYPES, RTOL, assert_close, generator, non_contiguous
from focal_cases import GAMMAS, REDUCTIONS, labels, logits, loss_and_grads, soft_targets, targets_for
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference

# One row, less than a vector, odd K, more than one block and more than one tile of the kernels, with a ragged end.
SHAPES = [(1, 1), (5, 1), (7, 3), (129, 80), (1001, 91), (2, 3, 5, 7)]


def assert_same(x: Tensor, targets: Tensor, *args: object, upstream: float = 1.0) -> None:
    actual = loss_and_grads(ops.sigmoid_focal_loss, x, targets, *args, upstream=upstream)
    expected = loss_and_grads(reference.sigmoid_focal_loss, x, targets, *args, upstream=upstream)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == x.dtype
        assert a.shape == b.shape
        assert_close(a, b)


# ---- values and gradients ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_reference(shape: tuple[int, ...], kind: str, dtype: torch.dtype, device: str) -> None:
    x = logits(*shape, dtype=dtype, device=device)
    for gamma, reduction in itertools.product([2.0, 1.5], REDUCTIONS):
        assert_same(x, targets_for(x, kind), 0.25, gamma, reduction)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.7, 1.0])
def test_every_gamma_and_alpha(
    alpha: float, gamma: float, kind: str, dtype: torch.dtype, device: str
) -> None:
    x = logits(41, 11, dtype=dtype, device=device)
    assert_same(x, targets_for(x, kind), alpha, gamma, "none")
    assert_same(x, targets_for(x, kind), alpha, gamma, "sum", upstream=0.3)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_gradcheck(kind: str, reduction: str, gamma: float) -> None:
    x = logits(6, 5, dtype=torch.float64).requires_grad_()
    targets = targets_for(x.detach(), kind)
    if targets.is_floating_point():
        # Inside (0, 1): at its ends a numerical derivative leaves the domain.
        targets = (targets * 0.9 + 0.05).requires_grad_()

    def loss(x: Tensor, targets: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(x, targets, 0.25, gamma, reduction)

    assert torch.autograd.gradcheck(loss, (x, targets), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_large_logits(gamma: float, kind: str, dtype: torch.dtype, device: str) -> None:
    values = [-100.0, -88.0, -50.0, -17.0, -1e-3, 0.0, 1e-3, 17.0, 50.0, 88.0, 100.0]
    x = torch.tensor(values, dtype=dtype, device=device)[:, None].repeat(1, 3)
    targets = torch.tensor([0.0, 1.0, 0.3], dtype=dtype, device=device).expand_as(x).contiguous()
    if kind == "labels":
        targets = torch.ones(len(values), dtype=torch.long, device=device)
    results = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, gamma)
    assert all(result.isfinite().all() for result in results)
    # In float64, so that the twin's own rounding (log of a sigmoid that was rounded) does not count.
    wide = targets.double() if kind == "soft" else targets
    expected = loss_and_grads(reference.sigmoid_focal_loss, x.double(), wide, 0.25, gamma)
    for a, b in zip(results, expected, strict=True):
        # Four times the absolute tolerance: by a soft target, terms of size |x| = 100 cancel.
        torch.testing.assert_close(a.double(), b, rtol=2 * RTOL[dtype], atol=4 * ATOL[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_small_losses_keep_their_relative_precision(dtype: torch.dtype) -> None:
    # An easy background: p = 1e-9. 1 - (1 - p) would keep one digit of it in float32, and log(1 - p) none.
    x = torch.full((1, 1), math.log(1e-9), dtype=dtype)
    loss, grad = loss_and_grads(ops.sigmoid_focal_loss, x, torch.tensor([-1]), -1.0, 2.0)
    # loss = p^2 (-log(1 - p)) = p^3 and d loss / d x = 3 p^3, but for a factor 1 + O(p); the logit's own rounding
    # (20.7 * 2^-24) moves p by 1.3e-6 of itself.
    tolerance = 3 * 20.8 * torch.finfo(dtype).eps + 3e-9
    assert loss.item() == pytest.approx(1e-27, rel=tolerance)
    assert grad.item() == pytest.approx(3e-27, rel=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_results_of_16_bits_are_rounded_once(dtype: torch.dtype, device: str) -> None:
    """What is computed in float32 may be wrong by 4e-6 of itself, so that where a half unit decides, one result in a
    hundred of float16 (2^-11 each way) falls on the other side; bfloat16's units are eight times as long."""
    x = logits(500, 80, dtype=dtype, device=device)
    x.requires_grad_()
    targets = torch.full((500,), -1, device=device)
    results = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0)
    expected = loss_and_grads(reference.sigmoid_focal_loss, x.detach().double(), targets, 0.25, 2.0)
    for result, wide in zip(results, expected, strict=True):
        normal = wide.abs() > torch.finfo(dtype).tiny
        wrong = (result != wide.to(dtype)) & normal
        assert wrong.sum() <= 0.02 * normal.sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_nan_logits_stay_visible(kind: str, dtype: torch.dtype) -> None:
    x = logits(6, 5, dtype=dtype)
    x[2, 3] = math.nan
    targets = torch.tensor([0, 1, 2, -1, -2, 4]) if kind == "labels" else targets_for(x, kind)
    for gamma in (2.0, 0.5):
        results = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, gamma)
        for result in results:
            assert result[2, 3].isnan()
            assert result.isnan().sum() == 1
        assert ops.sigmoid_focal_loss(x, targets, 0.25, gamma, "sum").isnan()


@pytest.mark.parametrize("gamma", GAMMAS)
def test_infinite_logits(gamma: float) -> None:
    x = torch.tensor([[math.inf, -math.inf]])
    right = ops.sigmoid_focal_loss(x, torch.tensor([0]), gamma=gamma)
    wrong = ops.sigmoid_focal_loss(x, torch.tensor([1]), gamma=gamma)
    assert torch.equal(right, torch.zeros(1, 2))
    assert torch.equal(wrong, torch.full((1, 2), math.inf))


@pytest.mark.parametrize("device", DEVICES)
def test_ignored_rows_have_no_loss_whatever_their_logits(device: str) -> None:
    x = logits(300, 7, device=device)
    targets = labels(300, classes=7, device=device)
    ignored = targets == -2
    assert ignored.any()
    assert not ignored.all()
    poisoned = x.masked_fill(ignored[:, None], math.nan)
    for a, b in zip(
        loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0, "sum"),
        loss_and_grads(ops.sigmoid_focal_loss, poisoned, targets, 0.25, 2.0, "sum"),
        strict=True,
    ):
        assert torch.equal(a, b)
    assert (loss_and_grads(ops.sigmoid_focal_loss, poisoned, targets)[1][ignored] == 0).all()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_labels_equal_one_hot_targets(dtype: torch.dtype) -> None:
    x = logits(50, 9, dtype=torch.float64)
    targets = torch.randint(-1, 9, (50,), generator=generator(0))
    one_hot = (targets[:, None] == torch.arange(9)).double()
    for reduction in REDUCTIONS:
        by_label = loss_and_grads(ops.sigmoid_focal_loss, x, targets.to(dtype), 0.25, 2.0, reduction)
        by_value = loss_and_grads(ops.sigmoid_focal_loss, x, one_hot, 0.25, 2.0, reduction)
        assert_close(by_label[0], by_value[0])
        assert_close(by_label[1], by_value[1])


def test_mixed_dtypes_compute_in_the_wider() -> None:
    x = logits(8, 3, dtype=torch.bfloat16)
    targets = soft_targets(8, 3)
    for reduction in REDUCTIONS:
        loss, grad_x, grad_t = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0, reduction)
        assert (loss.dtype, grad_x.dtype, grad_t.dtype) == (torch.float32, torch.bfloat16, torch.float32)
        wide = loss_and_grads(ops.sigmoid_focal_loss, x.float(), targets, 0.25, 2.0, reduction)
        assert torch.equal(loss, wide[0])
        assert torch.equal(grad_x, wide[1].bfloat16())
        assert torch.equal(grad_t, wide[2])
        with torch.inference_mode():
            assert torch.equal(ops.sigmoid_focal_loss(x, targets, reduction=reduction), loss)
        assert_close(loss, reference.sigmoid_focal_loss(x, targets, reduction=reduction))


# ---- shapes and layouts ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_empty(kind: str, shape: tuple[int, ...], device: str) -> None:
    x = torch.empty(shape, device=device)
    targets = targets_for(x, "soft")
    if kind == "labels":
        targets = torch.full(shape[:-1], -1, device=device)
    for reduction in REDUCTIONS:
        assert_same(x, targets, 0.25, 2.0, reduction)


def test_scalar_logit_with_soft_target() -> None:
    assert_same(torch.tensor(0.3), torch.tensor(0.8))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_non_contiguous(kind: str, reduction: str, device: str) -> None:
    x = logits(37, 5, device=device)
    targets = targets_for(x, kind)
    expected = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0, reduction)
    for strided in (non_contiguous(x), x.t().contiguous().t()):
        actual = loss_and_grads(
            ops.sigmoid_focal_loss, strided, non_contiguous(targets), 0.25, 2.0, reduction
        )
        assert_close(actual[0], expected[0])  # a sum may follow the order in memory
        for a, b in zip(actual[1:], expected[1:], strict=True):
            assert torch.equal(a, b)


def test_channels_last_is_kept_with_soft_targets() -> None:
    x = logits(2, 5, 4, 3).to(memory_format=torch.channels_last).requires_grad_()
    targets = soft_targets(2, 5, 4, 3)
    loss = ops.sigmoid_focal_loss(x, targets)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert loss.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)
    assert_close(loss, reference.sigmoid_focal_loss(x, targets))


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_rows_that_start_at_any_address(offset: int) -> None:
    x = logits(offset + 33, 7)[offset:]
    assert_same(x, labels(33, classes=7), 0.25, 2.0, "sum")


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 300),
    classes=st.integers(1, 100),
    gamma=st.sampled_from([0.0, 0.7, 2.0, 4.0]),
    reduction=st.sampled_from(REDUCTIONS),
    kind=st.sampled_from(["labels", "soft"]),
    seed=st.integers(0, 1000),
)
def test_any_shape(rows: int, classes: int, gamma: float, reduction: str, kind: str, seed: int) -> None:
    x = logits(rows, classes, seed=seed)
    assert_same(x, targets_for(x, kind), 0.25, gamma, reduction)


@pytest.mark.parametrize("classes", [1, 80])
def test_results_larger_than_a_huge_page(classes: int) -> None:
    # Large results live in recycled memory: a second step must not find anything of the first.
    rows = 3_000_000 // classes
    targets = torch.full((rows,), -1)
    targets[::7] = 0
    for seed in range(3):
        x = logits(rows, classes, seed=seed)
        (grad,) = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0, "sum")[1:]
        expected = ops.sigmoid_focal_loss(x[-500:].requires_grad_(), targets[-500:], 0.25, 2.0, "sum")
        (last_rows,) = torch.autograd.grad(expected, [expected.grad_fn.next_functions[0][0].variable])
        assert torch.equal(grad[-500:], last_rows)
