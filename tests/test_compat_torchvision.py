"""compat.torchvision beside literal values of torchvision 0.29.1, and beside the real one where it is installed."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import (
    DEVICES,
    DTYPES,
    assert_close,
    crowded,
    generator,
    non_contiguous,
    random_boxes,
    random_scores,
)
from focal_cases import REDUCTIONS, logits, soft_targets
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat import torchvision as compat

X = torch.tensor([[-3.0, -0.5, 0.25], [1.5, 4.0, -20.0]])
HARD = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
SOFT = torch.tensor([[0.0, 0.25, 0.5], [1, 0.75, 1]])
BOXES1 = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 25], [0, 0, 4, 4]])
BOXES2 = torch.tensor([[5.0, 0, 15, 10], [0, 0, 20, 20], [10, 10, 12, 14]])
# Literals have seven digits.
SEVEN_DIGITS = {"rtol": 2e-6, "atol": 1e-9}


@pytest.fixture
def original() -> ModuleType:
    return pytest.importorskip("torchvision", reason="torchvision is not importable here")


def close(actual: Tensor, expected: list[Any] | float) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), **SEVEN_DIGITS)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.default, p.kind) for p in inspect.signature(function).parameters.values()]


def test_signatures(original: ModuleType) -> None:
    for name in ("sigmoid_focal_loss", "nms", "batched_nms", "generalized_box_iou_loss"):
        assert parameters(getattr(compat, name)) == parameters(getattr(original.ops, name))
    # Versions before 0.27 have no `fmt`.
    theirs = parameters(original.ops.box_iou)
    assert parameters(compat.box_iou)[: len(theirs)] == theirs
    utils = original.models.detection._utils
    for ours, their in ((compat.BoxCoder, utils.BoxCoder), (compat.Matcher, utils.Matcher)):
        for name in ("__init__", "__call__", "encode", "encode_single", "decode", "decode_single"):
            if name in vars(their):
                assert parameters(getattr(ours, name)) == parameters(getattr(their, name)), name


def test_focal_loss_literals() -> None:
    none = [[8.196242e-05, 0.09435289, 0.1957739], [0.001675712, 2.90618, 5.0]]
    close(compat.sigmoid_focal_loss(X, HARD), none)
    close(compat.sigmoid_focal_loss(X, HARD, reduction="mean"), 1.366344)
    close(compat.sigmoid_focal_loss(X, HARD, 0.25, 2, "sum"), 8.198065)
    close(compat.sigmoid_focal_loss(X, SOFT, reduction="sum"), 5.187069)
    plain = [[0.01058109, 0.3968271, 0.495639], [0.08602624, 0.5181504, 20.0]]
    close(compat.sigmoid_focal_loss(X, SOFT, -1, 0.5), plain)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 0.5), (0.7, 0)])
def test_focal_loss_and_gradients(original: ModuleType, alpha: float, gamma: float, reduction: str) -> None:
    results = []
    for function in (compat.sigmoid_focal_loss, original.ops.sigmoid_focal_loss):
        x, t = logits(6, 5).requires_grad_(), soft_targets(6, 5).requires_grad_()
        loss = function(x, t, alpha, gamma, reduction)
        loss.sum().backward()
        results.append((loss.detach(), x.grad, t.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("targets_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_focal_loss_dtypes(
    original: ModuleType,
    dtype: torch.dtype,
    targets_dtype: torch.dtype,
    autocast: torch.dtype | None,
    reduction: str,
) -> None:
    x, t = logits(4, 3, dtype=dtype).requires_grad_(), soft_targets(4, 3, dtype=targets_dtype)
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        ours = compat.sigmoid_focal_loss(x, t, reduction=reduction)
        theirs = original.ops.sigmoid_focal_loss(x, t, reduction=reduction)
    exact = original.ops.sigmoid_focal_loss(x.double(), t.double(), reduction=reduction)
    assert ours.dtype == theirs.dtype
    (grad,) = torch.autograd.grad(ours.sum(), x)
    assert grad.dtype == dtype
    assert_close(ours, exact.to(ours.dtype))


def test_focal_loss_takes_labels_and_rejects_what_it_cannot_take() -> None:
    labels = torch.tensor([1, -1])
    expected = compat.sigmoid_focal_loss(X, torch.tensor([[0.0, 1, 0], [0, 0, 0]]))
    assert torch.equal(compat.sigmoid_focal_loss(X, labels), expected)
    assert compat.sigmoid_focal_loss(X[:0], HARD[:0]).shape == (0, 3)
    assert compat.sigmoid_focal_loss(X[:0], HARD[:0], reduction="sum") == 0
    with pytest.raises(ValueError, match=r"expected alpha in \[0, 1\], or -1 for none, got -0.5"):
        compat.sigmoid_focal_loss(X, HARD, alpha=-0.5)
    with pytest.raises(ValueError, match="expected reduction"):
        compat.sigmoid_focal_loss(X, HARD, reduction="batchmean")
    with pytest.raises(ValueError, match=r"inputs' shape \[2, 3\], got \[3\]"):
        compat.sigmoid_focal_loss(X, HARD[0])
    with pytest.raises(ValueError, match=r"one-hot targets are floating point"):
        compat.sigmoid_focal_loss(X, HARD.long())


def test_nms_literals() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [1, 1, 11, 11], [0, 0, 10, 10], [20, 20, 30, 30], [21, 20, 31, 30]]
    )
    scores = torch.tensor([0.5, 0.9, 0.9, 0.1, 0.1])
    assert compat.nms(boxes, scores, 0.5).tolist() == [1, 3]
    assert compat.batched_nms(boxes, scores, torch.tensor([0, 1, 0, 2, 2]), 0.5).tolist() == [1, 2, 3]
    assert compat.nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_batched_nms_takes_float_classes(original: ModuleType) -> None:
    boxes, scores = crowded(300, seed=1)
    idxs = torch.randint(0, 4, (300,), generator=generator(2)).float()
    expected = original.ops.batched_nms(boxes, scores, idxs, 0.4)  # exact offsets: coordinates are integers
    assert torch.equal(compat.batched_nms(boxes, scores, idxs, 0.4), expected)
    # torchvision moves 0.25 by a quarter of the boxes' extent, onto those of 0.
    assert torch.equal(compat.batched_nms(boxes, scores, idxs / 4, 0.4), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_nms_takes_scores_of_another_dtype(device: str) -> None:
    # Scores that float16 holds, so that their order is the same in every dtype.
    boxes, scores = random_boxes(200, seed=1, device=device), random_scores(200, device=device).half()
    expected = compat.nms(boxes, scores.float(), 0.4)
    for dtype in (torch.float64, torch.float16):
        assert torch.equal(compat.nms(boxes, scores.to(dtype), 0.4), expected)


def test_box_iou_literals() -> None:
    third = 1 / 3
    expected = [[third, 0.25, 0], [0.2, third, 0.04], [0, 0.04, 0]]
    close(compat.box_iou(BOXES1, BOXES2), expected)
    centred = [
        [0.4594595, 0.2743764, 0.01935484],
        [0.4230769, 0.4112804, 0.3041622],
        [0.1420455, 0.05668934, 0],
    ]
    close(compat.box_iou(BOXES1 + 1, BOXES2 + 1, "cxcywh"), centred)
    sized = [[0.2857143, 0.2743764, 0.003174603], [0.1935484, 0.4259567, 0.3699552], [0, 0.05668934, 0]]
    close(compat.box_iou(BOXES1 + 1, BOXES2 + 1, fmt="xywh"), sized)
    batch = compat.box_iou(torch.stack([BOXES1, BOXES2]), BOXES2[None])
    assert torch.equal(batch, torch.stack([compat.box_iou(BOXES1, BOXES2), compat.box_iou(BOXES2, BOXES2)]))
    assert compat.box_iou(BOXES1[None].repeat(2, 1, 1)[:0], BOXES2).shape == (0, 3, 3)


def test_box_iou_in_a_batch_has_gradients() -> None:
    first, second = BOXES1[None].clone().requires_grad_(), BOXES1.clone().requires_grad_()
    compat.box_iou(first, BOXES2).sum().backward()
    compat.box_iou(second, BOXES2).sum().backward()
    assert first.grad is not None
    assert torch.equal(first.grad[0], second.grad)


@pytest.mark.parametrize(
    ("dtype1", "dtype2"),
    [
        (torch.int32, torch.int64),
        (torch.int16, torch.int8),
        (torch.int64, torch.float32),
        (torch.int32, torch.float64),
        (torch.float32, torch.float64),
        (torch.float16, torch.float32),
    ],
)
def test_box_iou_takes_integers_and_two_dtypes(
    original: ModuleType, dtype1: torch.dtype, dtype2: torch.dtype
) -> None:
    first, second = BOXES1.to(dtype1), BOXES2.to(dtype2)
    expected = original.ops.box_iou(first, second)
    assert torch.equal(compat.box_iou(first, second), expected)
    assert compat.box_iou(first, second).dtype == expected.dtype


def test_box_iou_of_uint8_does_not_wrap() -> None:
    # torchvision's differences of corners wrap around, and give -1.13 for the boxes furthest apart.
    expected = compat.box_iou(BOXES1, BOXES2)
    assert torch.equal(compat.box_iou(BOXES1.to(torch.uint8), BOXES2.to(torch.uint8)), expected)


def test_box_iou_rejects_rotated_formats() -> None:
    with pytest.raises(ValueError, match="expected fmt 'xyxy', 'xywh' or 'cxcywh', got 'xywhr'"):
        compat.box_iou(torch.zeros(1, 5), torch.zeros(1, 5), "xywhr")


def test_giou_loss_literals() -> None:
    close(compat.generalized_box_iou_loss(BOXES1, BOXES2), [0.6666666, 0.7666667, 1.857143])
    close(compat.generalized_box_iou_loss(BOXES1, BOXES2, "mean"), 1.096825)
    close(compat.generalized_box_iou_loss(BOXES1[0], BOXES2[0]), 0.6666666)
    empty = torch.zeros(0, 4, requires_grad=True)
    loss = compat.generalized_box_iou_loss(empty, empty, "mean")
    loss.backward()
    assert loss == 0
    with pytest.raises(ValueError, match=r"generalized_box_iou_loss: expected reduction .* got 'max'"):
        compat.generalized_box_iou_loss(BOXES1, BOXES2, "max")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_giou_loss_and_gradients(original: ModuleType, reduction: str, dtype: torch.dtype) -> None:
    results = []
    for function in (compat.generalized_box_iou_loss, original.ops.generalized_box_iou_loss):
        first = torch.cat([random_boxes(20, seed=1, dtype=dtype), BOXES1.to(dtype)]).requires_grad_()
        second = torch.cat([random_boxes(20, seed=2, dtype=dtype), BOXES2.to(dtype)]).requires_grad_()
        loss = function(first, second, reduction, 1e-6)
        loss.sum().backward()
        results.append((loss.detach(), first.grad, second.grad))
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs)


def test_box_coder_literals() -> None:
    coder = compat.BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = coder.encode_single(BOXES1, BOXES2)
    close(deltas, [[-5.0, 0, 0, 0], [0, 2.5, -3.465736, 0], [-45, -25, 3.465736, 0]])
    doubled = torch.cat([deltas, 2 * deltas], dim=1)
    expected = [
        [[0.0, 0, 10, 10], [-5, 0, 5, 10]],
        [[5.0, 5, 15, 25], [7.5, 10, 12.5, 30]],
        [[0.0, 0, 4, 4], [-11, -10, -3, -6]],
    ]
    boxes = coder.decode(doubled, [BOXES2[:1], BOXES2[1:]])
    # Corners up to 30 from sides times exp(): some units in the last place of 30.
    torch.testing.assert_close(boxes, torch.tensor(expected), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("classes", [1, 3])
def test_box_coder(original: ModuleType, classes: int, dtype: torch.dtype) -> None:
    weights, clip = (10.0, 10.0, 5.0, 5.0), 1.5
    ours = compat.BoxCoder(weights, clip)
    theirs = original.models.detection._utils.BoxCoder(weights, clip)
    boxes = [random_boxes(n, seed=n, dtype=dtype) for n in (5, 0, 3)]
    anchors = [random_boxes(n, seed=n + 1, dtype=dtype) for n in (5, 0, 3)]
    encoded, expected = ours.encode(boxes, anchors), theirs.encode(boxes, anchors)
    assert type(encoded) is type(expected)
    for a, b in zip(encoded, expected, strict=True):
        assert_close(a, b)
    # Some dw and dh beyond the clip.
    deltas = torch.randn(8, 4 * classes, generator=generator(3), dtype=dtype) * 8
    # Corners in pixels: differences of numbers a hundred times the smallest side.
    assert_close(ours.decode(deltas, anchors), theirs.decode(deltas, anchors), scale=100)
    assert ours.decode(deltas, anchors).shape == (8, classes, 4)
    assert_close(ours.decode(non_contiguous(deltas), anchors), ours.decode(deltas, anchors))
    assert_close(ours.decode(deltas.view(8, classes, 4), anchors), ours.decode(deltas, anchors))
    nothing = deltas[:0], [anchors[1]]
    assert ours.decode(*nothing).shape == theirs.decode(*nothing).shape
    assert ours.decode(deltas.half(), anchors).dtype == theirs.decode(deltas.half(), anchors).dtype


def test_box_coder_gradients(original: ModuleType) -> None:
    weights = (1.0, 1.0, 2.0, 2.0)
    grads = []
    for coder in (compat.BoxCoder(weights), original.models.detection._utils.BoxCoder(weights)):
        deltas = torch.randn(6, 8, generator=generator(0), dtype=torch.float64).requires_grad_()
        anchors = random_boxes(6, dtype=torch.float64).requires_grad_()
        (coder.decode(deltas, [anchors]) ** 2).sum().backward()
        grads.append((deltas.grad, anchors.grad))
    for a, b in zip(*grads, strict=True):
        assert a is not None
        assert_close(a, b, scale=100)  # squares of pixels


def test_half_deltas_keep_exact_boxes() -> None:
    # In bfloat16 the anchors themselves would be 4 px off.
    anchors = torch.tensor([[1001.0, 1003.0, 1005.0, 1007.0]])
    decoded = compat.BoxCoder((1.0, 1, 1, 1)).decode_single(torch.zeros(1, 4).bfloat16(), anchors)
    assert torch.equal(decoded, anchors.bfloat16())


def test_box_coder_rejects_what_it_cannot_take() -> None:
    coder = compat.BoxCoder((1.0, 1, 1, 1))
    with pytest.raises(TypeError, match="expected boxes as a list"):
        coder.decode(torch.zeros(3, 4), BOXES1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected rel_codes as a tensor"):
        coder.decode([torch.zeros(3, 4)], [BOXES1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"expected rel_codes \[3, C \* 4\], got \[3, 6\]"):
        coder.decode_single(torch.zeros(3, 6), BOXES1)
    with pytest.raises(ValueError, match=r"expected rel_codes \[3, C \* 4\], got \[2, 4\]"):
        coder.decode_single(torch.zeros(2, 4), BOXES1)


def test_matcher_literals() -> None:
    assert (compat.Matcher.BELOW_LOW_THRESHOLD, compat.Matcher.BETWEEN_THRESHOLDS) == (-1, -2)
    qualities = torch.tensor([[0.1, 0.45, 0.6, 0.0, 0.3], [0.3, 0.45, 0.2, 0.0, 0.3]])
    assert compat.Matcher(0.5, 0.4)(qualities).tolist() == [-1, -2, 0, -1, -1]
    assert compat.Matcher(0.5, 0.4, True)(qualities).tolist() == [-1, 0, 0, -1, -1]
    with pytest.raises(ValueError, match=r"expected low_threshold <= high_threshold, got 0\.6 > 0\.5"):
        compat.Matcher(0.5, 0.6)
    with pytest.raises(ValueError, match=r"got \[0, 5\]: no ground truths"):
        compat.Matcher(0.5, 0.4)(qualities[:0])
    with pytest.raises(ValueError, match=r"got \[2, 0\]: no elements"):
        compat.Matcher(0.5, 0.4)(qualities[:, :0])


@pytest.mark.parametrize("low_quality", [False, True])
def test_matcher(original: ModuleType, low_quality: bool) -> None:
    theirs = original.models.detection._utils.Matcher(0.5, 0.4, low_quality)
    for seed in range(5):
        # Sixteenths: equal qualities, and some at the thresholds.
        qualities = torch.randint(0, 12, (7, 60), generator=generator(seed)) / 16
        qualities[seed] = 0
        before = qualities.clone()
        assert torch.equal(compat.Matcher(0.5, 0.4, low_quality)(qualities), theirs(qualities))
        assert torch.equal(qualities, before)


def test_matcher_gives_the_matches_of_match_anchors() -> None:
    boxes, anchors = random_boxes(6, seed=1), random_boxes(200, seed=2)
    matrix = compat.box_iou(boxes, anchors)
    for low_quality in (False, True):
        matched = ops.match_anchors(anchors, [boxes], allow_low_quality_matches=low_quality)[0]
        assert torch.equal(compat.Matcher(0.5, 0.4, low_quality)(matrix), matched)


def test_compile() -> None:
    def loss(x: Tensor, t: Tensor, boxes: Tensor) -> Tensor:
        decoded = compat.BoxCoder((1.0, 1, 1, 1)).decode(x.repeat(1, 4), [boxes, boxes])
        return compat.sigmoid_focal_loss(x, t, reduction="sum") + decoded.sum()

    arguments = logits(6, 1), soft_targets(6, 1), random_boxes(3)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert_close(compiled(*arguments), loss(*arguments))
