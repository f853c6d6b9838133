"""`sigmoid_focal_loss` as an op: autograd, tracing, threads, bad input; and beside torchvision."""

import math

import pytest
import torch
from cases import ATOL, DEVICES, DTYPES, RTOL, assert_close, num_threads
from focal_cases import GAMMAS, REDUCTIONS, labels, logits, loss_and_grads, soft_targets, targets_for

from retinanet_fast import ops, reference

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


def test_binding_in_the_module() -> None:
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
