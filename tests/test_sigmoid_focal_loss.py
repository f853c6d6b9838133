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
# One row, less than a vector, odd K, more than one block and more than one tile of the kernels, with a ragged end.
SHAPES = [(1, 1), (5, 1), (7, 3), (129, 80), (1001, 91), (2, 3, 5, 7)]


def logits(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 0) -> Tensor:
    x = torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * 3 - 1
    return x.to(device=device, dtype=dtype)


def labels(*shape: int, classes: int, device: str = "cpu", seed: int = 1) -> Tensor:
    return torch.randint(-2, classes, shape, generator=generator(seed)).to(device)


def soft_targets(
    *shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu", seed: int = 2
) -> Tensor:
    t = torch.rand(*shape, generator=generator(seed), dtype=torch.float64)
    # A third of them hard, as one-hot targets are.
    t = torch.where(t < 1 / 6, 0.0, torch.where(t > 5 / 6, 1.0, t))
    return t.to(device=device, dtype=dtype)


def targets_for(x: Tensor, kind: str) -> Tensor:
    if kind == "labels":
        return labels(*x.shape[:-1], classes=x.shape[-1], device=str(x.device))
    return soft_targets(*x.shape, dtype=x.dtype, device=str(x.device))


def loss_and_grads(op, x: Tensor, targets: Tensor, *args: object, upstream: float = 1.0) -> list[Tensor]:
    x = x.detach().requires_grad_()
    leaves = [x]
    if targets.is_floating_point():
        targets = targets.detach().requires_grad_()
        leaves.append(targets)
    loss = op(x, targets, *args)
    return [loss.detach(), *torch.autograd.grad(loss, leaves, torch.full_like(loss, upstream))]


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
        loss = ops.sigmoid_focal_loss(x, targets, reduction=reduction)
        assert loss.dtype == torch.bfloat16
        wide = ops.sigmoid_focal_loss(x.float(), targets, reduction=reduction)
        assert torch.equal(loss, wide.bfloat16())


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


# ---- autograd ----


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_second_backward(reduction: str, dtype: torch.dtype, device: str) -> None:
    x = logits(20, 6, dtype=dtype, device=device).requires_grad_()
    loss = ops.sigmoid_focal_loss(x, labels(20, classes=6, device=device), reduction=reduction).sum()
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    (scaled,) = torch.autograd.grad(loss, x, torch.full_like(loss, 2.0), retain_graph=True)
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(second, first)
    # Doubling is exact but where float16 rounds a subnormal gradient before or after it.
    assert_close(scaled, 2 * first)
    assert torch.equal(first, kept)  # what was handed out is left alone


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_a_negative_upstream_gradient(kind: str, reduction: str, dtype: torch.dtype, device: str) -> None:
    # One factor for all elements, also where the loss is not reduced: the sum's gradient, expanded.
    gradients = []
    for op in (ops.sigmoid_focal_loss, reference.sigmoid_focal_loss):
        x = logits(20, 6, dtype=dtype, device=device).requires_grad_()
        gradients.append(torch.autograd.grad(-op(x, targets_for(x, kind), reduction=reduction).sum(), x)[0])
    assert_close(*gradients)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_is_accumulated_without_a_copy_and_scaled_in_its_own_memory(device: str) -> None:
    x = logits(20, 6, device=device).requires_grad_()
    targets = labels(20, classes=6, device=device)
    (ops.sigmoid_focal_loss(x, targets, reduction="sum") * 0.5).backward()
    half = x.grad.clone()
    ops.sigmoid_focal_loss(x, targets, reduction="sum").backward()
    assert_close(x.grad, 3 * half)


def test_logits_changed_in_place_are_noticed() -> None:
    x = logits(4, 3).requires_grad_()
    y = x * 1
    loss = ops.sigmoid_focal_loss(y, torch.tensor([0, 1, 2, -1]), reduction="sum")
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivative_is_an_error() -> None:
    x = logits(4, 3).requires_grad_()
    for reduction in REDUCTIONS:
        loss = ops.sigmoid_focal_loss(x, torch.tensor([0, 1, 2, -1]), reduction=reduction).sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(NotImplementedError, match="sigmoid_focal_loss: has no second derivative"):
            grad.sum().backward()


def test_float16_gradients_are_scaled_before_they_are_rounded() -> None:
    # What a GradScaler relies on: 2^16 times a gradient of 1e-9, which float16 alone cannot hold.
    x = torch.full((1, 4), -7.0, dtype=torch.float16)
    grad = loss_and_grads(ops.sigmoid_focal_loss, x, torch.tensor([-1]), 0.25, 2.0, "mean", upstream=2.0**15)[
        1
    ]
    wide = loss_and_grads(
        reference.sigmoid_focal_loss, x.double(), torch.tensor([-1]), 0.25, 2.0, "mean", upstream=2.0**15
    )[1]
    torch.testing.assert_close(grad.double(), wide, rtol=RTOL[torch.float16], atol=0)


# ---- determinism ----


@pytest.mark.parametrize("kind", ["labels", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_on_any_number_of_threads(dtype: torch.dtype, kind: str) -> None:
    x = logits(3000, 31, dtype=dtype)
    results = []
    for threads in (1, 2, 3, 2):
        with num_threads(threads):
            results.append(loss_and_grads(ops.sigmoid_focal_loss, x, targets_for(x, kind), 0.25, 2.0, "sum"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


# ---- bad input ----


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"targets": torch.zeros(4, 2)},
            ValueError,
            r"expected float targets of the inputs' shape \[4, 3\], got \[4, 2\]",
        ),
        (
            {"targets": torch.zeros(3).long()},
            ValueError,
            r"integer targets of shape inputs.shape\[:-1\].*got \[3\]",
        ),
        (
            {"targets": torch.zeros(4).bool()},
            TypeError,
            "expected targets of a floating point dtype, int64 or int32, got Bool",
        ),
        ({"targets": torch.zeros(4).byte()}, TypeError, "int64 or int32, got Byte"),
        ({"inputs": torch.zeros(4, 3).long()}, TypeError, "expected inputs of float64"),
        (
            {"inputs": torch.tensor(0.0), "targets": torch.tensor(0)},
            ValueError,
            "expected integer targets of shape",
        ),
        (
            {"targets": torch.tensor([0, 1, 3, 4])},
            IndexError,
            r"expected class indices in \[-2, 3\), got 3 at row 2",
        ),
        ({"targets": torch.tensor([0, -3, 3, 4])}, IndexError, "got -3 at row 1"),
        ({"alpha": 1.5}, ValueError, r"expected alpha in \[0, 1\], or -1 for none, got 1.5"),
        ({"alpha": -0.5}, ValueError, "got -0.5"),
        ({"alpha": math.nan}, ValueError, "got nan"),
        ({"gamma": -1.0}, ValueError, "expected a finite gamma >= 0, got -1"),
        ({"gamma": math.inf}, ValueError, "got inf"),
        ({"reduction": "avg"}, ValueError, "expected reduction 'none', 'mean' or 'sum', got 'avg'"),
    ],
)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_bad_input(requires_grad: bool, arguments: dict, error: type[Exception], message: str) -> None:
    arguments = {"inputs": torch.zeros(4, 3), "targets": torch.zeros(4).long(), **arguments}
    if arguments["inputs"].is_floating_point():
        arguments["inputs"] = arguments["inputs"].clone().requires_grad_(requires_grad)
    with pytest.raises(error, match="sigmoid_focal_loss: .*" + message):
        ops.sigmoid_focal_loss(**arguments)


def test_first_bad_row_is_named_whatever_the_threads() -> None:
    targets = torch.zeros(200_000, dtype=torch.long)
    targets[[77_777, 150_000, 199_999]] = 5
    for _ in range(5):
        with pytest.raises(IndexError, match="got 5 at row 77777"):
            ops.sigmoid_focal_loss(torch.zeros(200_000, 5), targets)


# ---- registration ----


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_opcheck(kind: str, reduction: str) -> None:
    x = logits(5, 4)
    targets = targets_for(x, kind)
    if targets.is_floating_point():
        targets.requires_grad_()
    arguments = (x.requires_grad_(), targets, 0.25, 2.0, reduction)
    torch.library.opcheck(torch.ops.retinanet_fast.sigmoid_focal_loss.default, arguments)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft"])
def test_compile(kind: str, reduction: str) -> None:
    x = logits(9, 4)
    targets = targets_for(x, kind)
    compiled = torch.compile(ops.sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    actual = loss_and_grads(compiled, x, targets, 0.25, 2.0, reduction)
    expected = loss_and_grads(ops.sigmoid_focal_loss, x, targets, 0.25, 2.0, reduction)
    for a, b in zip(actual, expected, strict=True):
        # The traced backward pass scales each element before it is rounded, not after: one rounding.
        assert_close(a, b)


def test_door_of_the_module() -> None:
    from retinanet_fast import _ext

    x, targets = logits(9, 4), labels(9, classes=4)
    assert torch.equal(
        _ext._C.sigmoid_focal_loss(x, targets, reduction="sum"),
        ops.sigmoid_focal_loss(x, targets, reduction="sum"),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("alpha", [-1, 0.25])
def test_equals_torchvision(alpha: float, reduction: str, dtype: torch.dtype) -> None:
    torchvision_ops = pytest.importorskip("torchvision.ops", reason="torchvision is not installed")
    x = logits(40, 7, dtype=dtype)
    targets = soft_targets(40, 7, dtype=dtype)
    for gamma in GAMMAS[1:]:  # its gradient at gamma 0 is 0 * inf where p_t rounds to 1
        expected = loss_and_grads(torchvision_ops.sigmoid_focal_loss, x, targets, alpha, gamma, reduction)
        actual = loss_and_grads(ops.sigmoid_focal_loss, x, targets, alpha, gamma, reduction)
        # It computes 1 - p_t with a rounding error of 2^-24, which the derivative of (1 - p_t)^0.5 magnifies.
        for a, b in zip(actual[:1], expected[:1], strict=True):
            torch.testing.assert_close(a, b, rtol=20 * RTOL[dtype], atol=20 * ATOL[dtype])
