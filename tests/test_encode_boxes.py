import math

import pytest
import torch
from cases import DEVICES, DTYPES, assert_close, non_contiguous, num_threads, random_boxes
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference

WEIGHTS = (10.0, 5.0, 2.5, 1.25)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 3, 128, 257, 5001])
def test_equals_reference(n: int, dtype: torch.dtype, device: str) -> None:
    boxes = random_boxes(n, seed=1, device=device, dtype=dtype)
    anchors = random_boxes(n, seed=2, device=device, dtype=dtype)
    assert_close(ops.encode_boxes(boxes, anchors, WEIGHTS), reference.encode_boxes(boxes, anchors, WEIGHTS))


@given(n=st.integers(0, 40), weights=st.tuples(*[st.floats(0.1, 20)] * 4), seed=st.integers(0, 2**31 - 1))
@settings(max_examples=30, deadline=None)
def test_decode_is_the_inverse(n: int, weights: tuple[float, ...], seed: int) -> None:
    boxes = random_boxes(n, seed=seed, dtype=torch.float64)
    anchors = random_boxes(n, seed=seed + 1, dtype=torch.float64)
    deltas = ops.encode_boxes(boxes, anchors, weights)
    # Boxes of 1 to 100 pixels: log scales reach ln(100) = 4.6, above the default clamp.
    decoded = ops.decode_boxes(deltas, anchors, weights, max_log_scale=10.0)
    torch.testing.assert_close(decoded, boxes, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_gradients_equal_reference(dtype: torch.dtype, device: str) -> None:
    upstream = torch.randn(300, 4, dtype=dtype).to(device)
    gradients = []
    for op in (ops.encode_boxes, reference.encode_boxes):
        leaves = [random_boxes(300, seed=s, device=device, dtype=dtype).requires_grad_() for s in (1, 2)]
        gradients.append(torch.autograd.grad(op(*leaves, WEIGHTS), leaves, upstream))
    for actual, expected in zip(*gradients, strict=True):
        assert_close(actual, expected)


def test_gradcheck() -> None:
    boxes = random_boxes(5, seed=1, dtype=torch.float64).requires_grad_()
    anchors = random_boxes(5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda b, a: ops.encode_boxes(b, a, WEIGHTS), (boxes, anchors))


@pytest.mark.parametrize(
    ("boxes_dtype", "anchors_dtype"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float64)]
)
def test_mixed_dtypes_give_the_wider_one(boxes_dtype: torch.dtype, anchors_dtype: torch.dtype) -> None:
    boxes = random_boxes(7, seed=1, dtype=boxes_dtype).requires_grad_()
    anchors = random_boxes(7, seed=2, dtype=anchors_dtype).requires_grad_()
    deltas = ops.encode_boxes(boxes, anchors)
    assert deltas.dtype == anchors_dtype
    assert_close(deltas, reference.encode_boxes(boxes, anchors))
    deltas.sum().backward()
    assert (boxes.grad.dtype, anchors.grad.dtype) == (boxes_dtype, anchors_dtype)


def test_non_contiguous() -> None:
    boxes, anchors = random_boxes(9, seed=1), random_boxes(9, seed=2)
    strided = ops.encode_boxes(non_contiguous(boxes), non_contiguous(anchors))
    assert torch.equal(strided, ops.encode_boxes(boxes, anchors))


@pytest.mark.parametrize("device", DEVICES)
def test_logarithms_of_the_whole_range(device: str) -> None:
    """Of float32, from the smallest subnormal number up, and of 0 and infinity."""
    exponents = torch.linspace(-149, 127.9, 20_000, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0, math.inf], dtype=torch.float64)
    sides = torch.cat([torch.exp2(exponents), ends]).to(torch.float32)
    boxes = torch.zeros(len(sides), 4)
    boxes[:, 2], boxes[:, 3] = sides, sides.flip(0)
    anchors = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand_as(boxes)
    logs = ops.encode_boxes(boxes.to(device), anchors.to(device))[:, 2:].cpu()
    # Off by at most 1.7e-7 on the CPU and 1 ulp, 1.2e-7, on CUDA; the exact one's rounding adds 0.6e-7.
    expected = boxes[:, 2:].double().log().float()
    torch.testing.assert_close(logs, expected, rtol=2.4e-7, atol=0)


def test_sides_that_are_not_positive_follow_the_formula() -> None:
    anchor = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    flat = ops.encode_boxes(torch.tensor([[1.0, 1.0, 1.0, 3.0]]), anchor)
    assert flat[0, 2] == float("-inf")
    assert ops.encode_boxes(torch.tensor([[3.0, 1.0, 1.0, 3.0]]), anchor)[0, 2].isnan()


def test_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 2):
        leaves = [random_boxes(9000, seed=s).requires_grad_() for s in (1, 2)]
        with num_threads(threads):
            deltas = ops.encode_boxes(*leaves)
            results.append((deltas, *torch.autograd.grad(deltas.square().sum(), leaves)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("boxes", "anchors", "weights", "error", "message"),
    [
        (torch.ones(3, 5), torch.ones(3, 4), WEIGHTS, ValueError, r"encode_boxes: .* \[N, 4\], got \[3, 5\]"),
        (torch.ones(3, 4), torch.ones(2, 4), WEIGHTS, ValueError, r"as many anchors as boxes, got"),
        (torch.ones(3, 4).long(), torch.ones(3, 4), WEIGHTS, TypeError, "expected boxes of float64"),
        (torch.ones(3, 4), torch.ones(3, 4), (1.0, 1.0), ValueError, "expected 4 weights .* got 2"),
        (torch.ones(3, 4), torch.ones(3, 4), (1.0, 0.0, 1.0, 1.0), ValueError, "weights other than 0"),
    ],
)  # fmt: skip
def test_bad_input(
    boxes: Tensor, anchors: Tensor, weights: tuple[float, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.encode_boxes(boxes, anchors, weights)


def test_opcheck_and_compile() -> None:
    leaves = [random_boxes(6, seed=s).requires_grad_() for s in (1, 2)]
    torch.library.opcheck(torch.ops.retinanet_fast.encode_boxes.default, (*leaves, WEIGHTS))
    compiled = torch.compile(ops.encode_boxes, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*leaves), ops.encode_boxes(*leaves))
    expected = torch.autograd.grad(ops.encode_boxes(*leaves).sum(), leaves)
    actual = torch.autograd.grad(compiled(*leaves).sum(), leaves)
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
