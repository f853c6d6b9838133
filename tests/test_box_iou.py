import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    TWIN_PASSES_AT_CLAMP_ENDS,
    assert_close,
    non_contiguous,
    num_threads,
    random_boxes,
)

from retinanet_fast import ops, reference

SIZES = [(0, 0), (0, 3), (3, 0), (1, 1), (37, 53), (300, 7)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_equals_reference(n: int, m: int, dtype: torch.dtype, device: str) -> None:
    boxes1 = random_boxes(n, seed=1, device=device, dtype=dtype)
    boxes2 = random_boxes(m, seed=2, device=device, dtype=dtype)
    # To the bit: the order of operations is part of the op's contract.
    assert torch.equal(ops.box_iou(boxes1, boxes2), reference.box_iou(boxes1, boxes2))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_boxes_have_wide_ious(dtype: torch.dtype) -> None:
    boxes = [random_boxes(n, seed=n, dtype=dtype).requires_grad_() for n in (5, 6)]
    wide = [b.detach().float().requires_grad_() for b in boxes]
    iou, exact = ops.box_iou(*boxes), ops.box_iou(*wide)
    assert torch.equal(iou, exact)
    gradients = torch.autograd.grad(iou.sum(), boxes)
    for actual, expected in zip(gradients, torch.autograd.grad(exact.sum(), wide), strict=True):
        assert torch.equal(actual, expected.to(dtype))


@TWIN_PASSES_AT_CLAMP_ENDS
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_gradients_equal_reference(n: int, m: int, device: str) -> None:
    # Integer corners, so that many coincide and the shared gradient of a tie counts.
    boxes = [random_boxes(k, seed=k, size=12.0, device=device, dtype=torch.float64).round() for k in (n, m)]
    for side in boxes:
        side[:, 2:] = torch.maximum(side[:, 2:], side[:, :2] + 1)
    upstream = torch.randn(n, m, dtype=torch.float64).to(device)
    gradients = []
    for op in (ops.box_iou, reference.box_iou):
        leaves = [side.clone().requires_grad_() for side in boxes]
        gradients.append(torch.autograd.grad(op(*leaves), leaves, upstream))
    for actual, expected in zip(*gradients, strict=True):
        assert_close(actual, expected)


def test_gradcheck() -> None:
    boxes1 = random_boxes(4, seed=1, dtype=torch.float64).requires_grad_()
    boxes2 = random_boxes(5, seed=2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(ops.box_iou, (boxes1, boxes2), eps=1e-6, atol=1e-6)


def test_boxes_without_area_and_nan() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, float("nan"), 2.0]])
    assert ops.box_iou(point, point).isnan().all()
    assert ops.box_iou(point, box[:1]).item() == 0.0
    assert ops.box_iou(box[:1], box[1:]).isnan().all()


def test_non_contiguous() -> None:
    boxes1, boxes2 = random_boxes(9, seed=1), random_boxes(11, seed=2)
    strided = ops.box_iou(non_contiguous(boxes1), non_contiguous(boxes2))
    assert torch.equal(strided, ops.box_iou(boxes1, boxes2))


def test_same_bits_on_any_number_of_threads() -> None:
    boxes1 = random_boxes(200, seed=1).requires_grad_()
    boxes2 = random_boxes(300, seed=2).requires_grad_()
    results = []
    for threads in (1, 2, 2):
        with num_threads(threads):
            iou = ops.box_iou(boxes1, boxes2)
            results.append((iou, *torch.autograd.grad(iou.square().sum(), (boxes1, boxes2))))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    ("boxes1", "boxes2", "error", "message"),
    [
        (
            torch.zeros(3, 5),
            torch.zeros(2, 4),
            ValueError,
            r"box_iou: expected boxes1 \[N, 4\], got \[3, 5\]",
        ),
        (torch.zeros(3, 4), torch.zeros(4), ValueError, r"box_iou: expected boxes2 \[N, 4\], got \[4\]"),
        (torch.zeros(3, 4).bool(), torch.zeros(2, 4), TypeError, "box_iou: expected boxes1 of float64"),
    ],
)
def test_bad_input(boxes1: torch.Tensor, boxes2: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.box_iou(boxes1, boxes2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype1", [torch.uint8, torch.int32, torch.int64, *DTYPES])
@pytest.mark.parametrize("dtype2", [torch.int16, torch.int64, *DTYPES])
def test_integer_boxes_and_two_dtypes(dtype1: torch.dtype, dtype2: torch.dtype, device: str) -> None:
    # Whole pixels below 2^8 are numbers of every dtype here, so that all of them have the same IoUs.
    boxes1 = random_boxes(7, seed=1, size=200.0, device=device).round()
    boxes2 = random_boxes(9, seed=2, size=200.0, device=device).round()
    wide = torch.promote_types(torch.promote_types(dtype1, dtype2), torch.float32)
    expected = reference.box_iou(boxes1.to(wide), boxes2.to(wide))
    actual = ops.box_iou(boxes1.to(dtype1), boxes2.to(dtype2))
    assert actual.dtype == wide
    assert torch.equal(actual, expected)


def test_areas_of_large_integer_boxes_are_exact() -> None:
    # Areas of 2^26 + 2^13 + 1: float32 would drop the last bits, so that the IoU came out as 1.
    boxes = torch.tensor([[0, 0, 8193, 8193], [0, 0, 8193, 8192]])
    iou = ops.box_iou(boxes[:1], boxes[1:])
    assert iou.item() == torch.tensor(8192 / 8193, dtype=torch.float32).item()


def test_gradients_beside_integer_boxes_and_another_dtype() -> None:
    boxes = random_boxes(4, seed=1, size=50.0).requires_grad_()
    others = random_boxes(5, seed=2, size=50.0).round()
    (expected,) = torch.autograd.grad(ops.box_iou(boxes, others).sum(), boxes)
    (beside_integers,) = torch.autograd.grad(ops.box_iou(boxes, others.long()).sum(), boxes)
    assert torch.equal(beside_integers, expected)
    (beside_double,) = torch.autograd.grad(ops.box_iou(boxes, others.double()).sum(), boxes)
    assert_close(beside_double, expected)  # computed in float64


def test_opcheck_and_compile() -> None:
    boxes = (random_boxes(4, seed=1).requires_grad_(), random_boxes(5, seed=2).requires_grad_())
    torch.library.opcheck(torch.ops.retinanet_fast.box_iou.default, boxes)
    compiled = torch.compile(ops.box_iou, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*boxes), ops.box_iou(*boxes))
