import math
from types import ModuleType

import numpy as np
import pytest
import torch
from cases import (
    DEGENERATE_BOXES,
    DEVICES,
    DTYPES,
    crowded,
    generator,
    non_contiguous,
    num_threads,
    random_boxes,
    random_scores,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retinanet_fast import ops, reference

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("n", [0, 1, 2, 17, 49, 300])
def test_equals_reference(n: int, threshold: float, dtype: torch.dtype, device: str) -> None:
    for boxes, scores in [
        (random_boxes(n, seed=n, device=device, dtype=dtype), random_scores(n, device=device, dtype=dtype)),
        crowded(n, seed=n, device=device, dtype=dtype),
    ]:
        kept = ops.nms(boxes, scores, threshold)
        assert kept.dtype == torch.int64
        assert kept.device == boxes.device
        assert torch.equal(kept, reference.nms(boxes, scores, threshold))


def nms_by_matrix(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """As the eager twin, but fast where thousands of boxes are kept: it looks up a matrix of IoUs."""
    order = scores.sort(descending=True, stable=True).indices
    hits = (ops.box_iou(boxes, boxes)[order][:, order] > threshold).triu(1).numpy()
    removed = np.zeros(len(order), dtype=bool)
    for rank, row in enumerate(hits):
        if not removed[rank]:
            removed |= row
    return order[torch.from_numpy(~removed)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("spread", [50.0, 300.0])
def test_more_boxes_than_one_block_or_round(spread: float, device: str) -> None:
    boxes = random_boxes(5000, seed=1, size=100.0)
    boxes += (torch.rand(5000, 2, generator=generator(2)) * spread).repeat(1, 2)
    scores = random_scores(5000)
    kept = ops.nms(boxes.to(device), scores.to(device), 0.5)
    assert torch.equal(kept.cpu(), nms_by_matrix(boxes, scores, 0.5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [-1.0, 0.0, 0.02, 0.5, 0.97, 1.0, NAN])
def test_degenerate_boxes_among_thousands(threshold: float, dtype: torch.dtype, device: str) -> None:
    # More than a round of the kernels on CUDA, and many near each other whose grid cells differ.
    n = 4600
    boxes = random_boxes(n, seed=4, size=30.0, dtype=dtype)
    boxes += (torch.rand(n, 2, generator=generator(5), dtype=dtype) * 250).repeat(1, 2)
    degenerate = torch.tensor(DEGENERATE_BOXES, dtype=dtype)
    boxes[torch.randperm(n, generator=generator(6))[: 8 * len(degenerate)]] = degenerate.repeat(8, 1)
    scores = random_scores(n, dtype=dtype)
    kept = ops.nms(boxes.to(device), scores.to(device), threshold)
    assert torch.equal(kept.cpu(), nms_by_matrix(boxes, scores, threshold))


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_in_one_line_or_place(device: str) -> None:
    n = 4500
    scores = random_scores(n)
    line = torch.tensor([[0.0, 0, 8, 8]]).repeat(n, 1)
    line[:, ::2] += torch.rand(n, 1, generator=generator(1)) * 900
    place = line[:1].repeat(n, 1)
    for boxes in (line, place):
        kept = ops.nms(boxes.to(device), scores.to(device), 0.4)
        assert torch.equal(kept.cpu(), nms_by_matrix(boxes, scores, 0.4))


def test_equal_scores_keep_their_order_and_nan_is_first() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1]] * 2 + [[5.0, 5, 6, 6]] * 3)
    assert ops.nms(boxes, torch.tensor([0.5, 0.5, 0.1, 0.7, 0.7]), 0.5).tolist() == [3, 0]
    assert ops.nms(boxes, torch.tensor([0.5, NAN, INF, 0.7, NAN]), 0.5).tolist() == [1, 4]
    assert ops.nms(boxes, torch.tensor([-0.0, 0.0, -INF, -0.0, 0.0]), 0.5).tolist() == [0, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_iou_exactly_at_the_threshold_is_kept(dtype: torch.dtype) -> None:
    scores = torch.tensor([0.9, 0.8], dtype=dtype)
    half = torch.tensor([[0, 0, 2, 1], [0, 0, 1, 1]], dtype=dtype)  # IoU 1/2, exact in every dtype
    assert ops.nms(half, scores, 0.5).tolist() == [0, 1]
    assert ops.nms(half, scores, math.nextafter(0.5, 0)).tolist() == [0]
    third = torch.tensor([[0, 0, 3, 1], [0, 0, 1, 1]], dtype=dtype)
    rounded = (torch.tensor(1.0, dtype=torch.promote_types(dtype, torch.float32)) / 3).item()
    # The IoU rounded to float32 lies above the real 1/3: the comparison is with the rounded one.
    assert ops.nms(third, scores, rounded).tolist() == [0, 1]
    assert ops.nms(third, scores, math.nextafter(rounded, 0)).tolist() == [0]


@pytest.mark.parametrize("threshold", [-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, NAN, INF, -INF])
def test_degenerate_boxes_and_thresholds(threshold: float) -> None:
    boxes = torch.tensor(
        [
            [0, 0, 2, 2],
            [1, 1, 1, 1],  # points: IoU with each other is 0 / 0
            [1, 1, 1, 1],
            [2, 2, 0, 0],  # inverted: positive area, no intersection
            [2, 0, 0, 2],  # inverted in x: negative area
            [0, 0, 2, 2],
            [0, NAN, 2, 2],
            [NAN, NAN, NAN, NAN],
            [-INF, -INF, INF, INF],
            [0, 0, INF, 2],
            [5, 5, 1e30, 1e30],  # area overflows
            [5, 5, 1e30, 1e30],
            [0, 0, 1e-30, 1e-30],  # area underflows
            [0, 0, 1e-30, 1e-30],
            [0, 0, 1e-20, 1e-20],  # area is subnormal
            [0, 0, 1e-20, 1e-20],
            [0, 0, 2, 2],
        ]
    )
    for seed in range(4):
        scores = torch.randperm(len(boxes), generator=generator(seed)).float()
        expected = reference.nms(boxes, scores, threshold)
        assert torch.equal(ops.nms(boxes, scores, threshold), expected)
    many = boxes.repeat(30, 1), scores.repeat(30)  # enough of them for the grid of large calls
    assert torch.equal(ops.nms(*many, threshold), reference.nms(*many, threshold))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 120),
    seed=st.integers(0, 2**20),
    threshold=st.sampled_from([-0.5, 0.0, 0.1, 1 / 3, 0.5, 0.7, 1.0]),
    dtype=st.sampled_from(DTYPES),
)
def test_any_crowd(n: int, seed: int, threshold: float, dtype: torch.dtype) -> None:
    boxes, scores = crowded(n, seed=seed, dtype=dtype)
    assert torch.equal(ops.nms(boxes, scores, threshold), reference.nms(boxes, scores, threshold))


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_equals_torchvision(n: int, threshold: float) -> None:
    torchvision: ModuleType = pytest.importorskip("torchvision", reason="torchvision is not importable here")
    boxes, scores = random_boxes(n, seed=n), random_scores(n)
    assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    boxes, scores = crowded(n, seed=n)
    scores = random_scores(
        n
    )  # torchvision leaves the order of equal scores to its sort, which is stable on the CPU
    assert torch.equal(ops.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))


def test_non_contiguous() -> None:
    boxes, scores = crowded(200, seed=3)
    strided = ops.nms(non_contiguous(boxes), non_contiguous(scores), 0.5)
    assert torch.equal(strided, ops.nms(boxes, scores, 0.5))


def test_same_indices_on_any_number_of_threads() -> None:
    boxes, scores = random_boxes(5000, seed=1, size=2000.0), random_scores(5000)
    kept = []
    for threads in (1, 2, 2):
        with num_threads(threads):
            kept.append(ops.nms(boxes, scores, 0.5))
    assert all(torch.equal(kept[0], other) for other in kept[1:])


@pytest.mark.parametrize(
    ("boxes", "scores", "error", "message"),
    [
        (torch.zeros(3, 5), torch.zeros(3), ValueError, r"nms: expected boxes \[N, 4\], got \[3, 5\]"),
        (torch.zeros(3, 4), torch.zeros(2), ValueError, r"nms: expected scores \[3\], got \[2\]"),
        (torch.zeros(3, 4), torch.zeros(3, 1), ValueError, r"nms: expected scores \[3\], got \[3, 1\]"),
        (torch.zeros(3, 4).int(), torch.zeros(3), TypeError, "nms: expected boxes of float64"),
        (torch.zeros(3, 4), torch.zeros(3).int(), TypeError, "nms: expected scores of float64"),
    ],
)
def test_bad_input(boxes: Tensor, scores: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ops.nms(boxes, scores, 0.5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.bfloat16), (torch.float16, torch.float64)])
def test_boxes_and_scores_of_two_dtypes(dtypes: tuple[torch.dtype, torch.dtype], device: str) -> None:
    boxes, scores = crowded(60, seed=4, device=device, dtype=dtypes[0])[0], random_scores(60, device=device)
    scores = scores.to(dtypes[1])
    wide = torch.promote_types(*dtypes)
    kept = ops.nms(boxes, scores, 0.5)
    assert torch.equal(kept, reference.nms(boxes.to(wide), scores.to(wide), 0.5))
    assert torch.equal(kept, reference.nms(boxes, scores, 0.5))


# Older torches (2.6, for one) ask for the setting where the size of a result depends on values.
@torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
def test_opcheck_and_compile() -> None:
    boxes, scores = random_boxes(30, seed=1).requires_grad_(), random_scores(30)
    torch.library.opcheck(torch.ops.retinanet_fast.nms.default, (boxes, scores, 0.5))
    assert not ops.nms(boxes, scores, 0.5).requires_grad
    compiled = torch.compile(lambda *args: boxes[ops.nms(*args)] * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(boxes, scores, 0.5), boxes[ops.nms(boxes, scores, 0.5)] * 2)
