import math

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    TWIN_PASSES_AT_CLAMP_ENDS,
    assert_close,
    generator,
    non_contiguous,
    num_threads,
    random_boxes,
)
from torch import Tensor

from retinanet_fast import ops, reference

WEIGHTS = (10.0, 5.0, 2.5, 1.25)


def random_deltas(
    n: int, *, seed: int = 0, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Tensor:
    return (torch.randn(n, 4, generator=generator(seed), dtype=torch.float64) * 0.5).to(device, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("image_size", [None, (60, 80)])
@pytest.mark.parametrize("n", [0, 1, 3, 128, 257, 5001])
def test_equals_reference(
    n: int, image_size: tuple[int, int] | None, dtype: torch.dtype, device: str
) -> None:
    deltas = random_deltas(n, device=device, dtype=dtype)
    anchors = random_boxes(n, seed=2, device=device, dtype=dtype)
    actual = ops.decode_boxes(deltas, anchors, WEIGHTS, image_size=image_size)
    expected = reference.decode_boxes(deltas, anchors, WEIGHTS, image_size=image_size)
    # Corners are differences of numbers up to 200 that each carry a relative error.
    assert_close(actual, expected, scale=10)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("image_size", [None, (60, 80)])
def test_gradients_equal_reference(
    image_size: tuple[int, int] | None, dtype: torch.dtype, device: str
) -> None:
    upstream = torch.randn(300, 4, dtype=dtype).to(device)
    gradients = []
    for op in (ops.decode_boxes, reference.decode_boxes):
        deltas = (random_deltas(300, device=device, dtype=dtype) * 8).requires_grad_()
        anchors = random_boxes(300, seed=2, device=device, dtype=dtype).requires_grad_()
        boxes = op(deltas, anchors, (1.0, 1.0, 1.0, 1.0), image_size=image_size)
        gradients.append(torch.autograd.grad(boxes, (deltas, anchors), upstream))
    for actual, expected in zip(*gradients, strict=True):
        assert_close(actual, expected)
    # Some log scales are above the clamp, where nothing may flow back.
    assert (gradients[0][0][:, 2:] == 0).any()


@TWIN_PASSES_AT_CLAMP_ENDS
def test_gradient_passes_at_the_ends_of_the_clamps() -> None:
    anchors = torch.tensor([[0.0, 0.0, 16.0, 16.0]], dtype=torch.float64)
    deltas = torch.tensor([[0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for op in (ops.decode_boxes, reference.decode_boxes):
        leaf = deltas.clone().requires_grad_()
        boxes = op(leaf, anchors, max_log_scale=0.0, image_size=(16, 16))
        (grad,) = torch.autograd.grad(boxes[:, 2:].sum(), leaf)
        assert grad.tolist() == [[16.0, 16.0, 8.0, 8.0]]


def test_gradcheck() -> None:
    deltas = random_deltas(5, dtype=torch.float64).requires_grad_()
    anchors = random_boxes(5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda d, a: ops.decode_boxes(d, a, WEIGHTS, image_size=(60, 80)), (deltas, anchors)
    )


def test_half_deltas_of_float_anchors_are_decoded_in_float() -> None:
    deltas = random_deltas(50, dtype=torch.bfloat16).requires_grad_()
    anchors = random_boxes(50, seed=2, size=1024.0)
    boxes = ops.decode_boxes(deltas, anchors)
    assert boxes.dtype == torch.float32
    assert_close(boxes, reference.decode_boxes(deltas.float(), anchors), scale=10)
    boxes.sum().backward()
    assert deltas.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("device", DEVICES)
def test_scales_of_the_whole_range(device: str) -> None:
    """exp in float32, from where it is 0 to where it is infinite."""
    log_scales = torch.cat([torch.linspace(-110, 95, 20_000), torch.tensor([-math.inf, 0.0, math.inf])])
    deltas = torch.zeros(len(log_scales), 4)
    deltas[:, 2], deltas[:, 3] = log_scales, log_scales.flip(0)
    anchors = torch.tensor([-0.5, -0.5, 0.5, 0.5]).expand_as(deltas)  # so that x2 is half of the scale
    boxes = ops.decode_boxes(deltas.to(device), anchors.to(device), max_log_scale=math.inf).cpu()
    # Off by at most 1e-7 on the CPU and 2 ulp, 2.4e-7, on CUDA, and the exact one's rounding adds 0.6e-7; where it is
    # subnormal, by two of the smallest numbers.
    expected = (deltas[:, 2:].double().exp().float() * 0.5).float()
    torch.testing.assert_close(boxes[:, 2:], expected, rtol=3e-7, atol=2.9e-45)


def test_large_and_nan_deltas() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = torch.tensor([[0.0, 0.0, 100.0, math.inf]])
    # exp(log(1000 / 16)) * 16 = 1000 pixels around the centre 8, within the rounding of exp at 62.5.
    assert_close(ops.decode_boxes(huge, anchor), torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))
    assert ops.decode_boxes(huge, anchor, image_size=(30, 40)).tolist() == [[0.0, 0.0, 40.0, 30.0]]
    broken = torch.tensor([[math.nan, 0.0, 0.0, 0.0]])
    corners = ops.decode_boxes(broken, anchor, image_size=(30, 40))[0]
    assert corners.isnan().tolist() == [True, False, True, False]


def test_non_contiguous() -> None:
    deltas, anchors = random_deltas(9), random_boxes(9, seed=2)
    strided = ops.decode_boxes(non_contiguous(deltas), non_contiguous(anchors))
    assert torch.equal(strided, ops.decode_boxes(deltas, anchors))


def test_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 2):
        leaves = [random_deltas(9000).requires_grad_(), random_boxes(9000).requires_grad_()]
        with num_threads(threads):
            boxes = ops.decode_boxes(*leaves)
            results.append((boxes, *torch.autograd.grad(boxes.square().sum(), leaves)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("deltas", "anchors", "image_size", "error", "message"),
    [
        (torch.ones(3, 8), torch.ones(3, 4), None, ValueError, r"decode_boxes: .* \[N, 4\], got \[3, 8\]"),
        (torch.ones(3, 4), torch.ones(2, 4), None, ValueError, r"as many anchors as deltas, got"),
        (torch.ones(3, 4), torch.ones(3, 4).int(), None, TypeError, "expected anchors of float64"),
        (torch.ones(3, 4), torch.ones(3, 4), (1, 2, 3), ValueError, r"expected image_size \(height, width\)"),
    ],
)  # fmt: skip
def test_bad_input(
    deltas: Tensor,
    anchors: Tensor,
    image_size: tuple[int, int] | None,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        ops.decode_boxes(deltas, anchors, image_size=image_size)


def test_equals_torchvision() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not importable here")
    from torchvision.models.detection._utils import BoxCoder

    deltas, anchors = random_deltas(500) * 4, random_boxes(500, seed=2)
    coder = BoxCoder(WEIGHTS)
    assert_close(ops.decode_boxes(deltas, anchors, WEIGHTS), coder.decode_single(deltas, anchors), scale=10)
    boxes = random_boxes(500, seed=3)
    assert_close(ops.encode_boxes(boxes, anchors, WEIGHTS), coder.encode_single(boxes, anchors))


def test_opcheck_and_compile() -> None:
    leaves = [random_deltas(6).requires_grad_(), random_boxes(6).requires_grad_()]
    decode = torch.ops.retinanet_fast.decode_boxes.default
    torch.library.opcheck(decode, (*leaves, WEIGHTS, 4.0, (60, 80)))
    compiled = torch.compile(ops.decode_boxes, fullgraph=True, backend="aot_eager")
    for image_size in (None, (60, 80), (70, 90), (80, 60)):  # the third makes the sizes symbolic
        boxes = ops.decode_boxes(*leaves, image_size=image_size)
        again = compiled(*leaves, image_size=image_size)
        assert torch.equal(boxes, again)
        expected, actual = (torch.autograd.grad(result.sum(), leaves) for result in (boxes, again))
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
