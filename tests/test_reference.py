"""The eager twins against closed forms, float64 differences and the real torchvision.

All other tests compare with the twins, so here the twins are compared with what shares no code with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch import Tensor

from retinanet_fast import reference
from retinanet_fast.structures import AnchorGrid

GAMMAS = [0.0, 0.5, 1.0, 2.0, 3.0]


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def torchvision() -> ModuleType:
    return pytest.importorskip("torchvision", reason="torchvision is not importable here")


def random_boxes(rng: torch.Generator, count: int, span: float = 100.0) -> Tensor:
    corner = torch.rand(count, 2, generator=rng) * span
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=rng) * span / 2], dim=1)


def small_head(rng: torch.Generator, dtype: torch.dtype = torch.float64) -> tuple[list, list, AnchorGrid]:
    """Two images, two levels (4x5 and 2x3), K = 2 anchors per cell, C = 3 classes."""
    base = torch.tensor([[[-8, -8, 8, 8], [-12, -6, 12, 6]], [[-16, -16, 16, 16], [-24, -12, 24, 12]]])
    grid = AnchorGrid(base.float(), ((8, 8), (16, 16)), ((4, 5), (2, 3)))
    logits = [torch.randn(2, 6, *size, generator=rng).to(dtype) for size in grid.grid_sizes]
    deltas = [torch.randn(2, 8, *size, generator=rng).to(dtype) * 0.3 for size in grid.grid_sizes]
    return logits, deltas, grid


# --- focal losses ---


@pytest.mark.parametrize(("p", "expected"), [(0.1, -0.2025), (0.9, -0.000114)])
def test_softmax_focal_loss_worked_examples(p: float, expected: float) -> None:
    # 0.25 (1 - p)^2 log10(p), published with base-10 logarithms and this many digits.
    x = torch.tensor([[math.log(p), math.log(1 - p)]], dtype=torch.float64)
    loss = reference.softmax_focal_loss(x, torch.tensor([0]), alpha=0.25)
    assert -float(loss) / math.log(10) == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [-1, 0.25])
def test_sigmoid_focal_loss_gradcheck(gamma: float, alpha: float, rng: torch.Generator) -> None:
    x = torch.randn(4, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    soft = torch.rand(4, 3, dtype=torch.float64, generator=rng, requires_grad=True)
    labels = torch.tensor([0, 2, -1, -2])
    assert torch.autograd.gradcheck(lambda x, t: reference.sigmoid_focal_loss(x, t, alpha, gamma), (x, soft))
    assert torch.autograd.gradcheck(lambda x: reference.sigmoid_focal_loss(x, labels, alpha, gamma), (x,))
    assert torch.autograd.gradcheck(
        lambda x: reference.softmax_focal_loss(x, labels.clamp_min(0), None, gamma), (x,)
    )


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_focal_losses_stay_finite_for_large_logits(gamma: float, dtype: torch.dtype) -> None:
    x = torch.tensor([-100, -88, -30, 0, 30, 88, 100], dtype=dtype)[:, None].repeat(1, 2).requires_grad_()
    for labels in (torch.tensor([0] * 7), torch.tensor([1] * 7)):
        pair = torch.stack([x[:, 0], -x[:, 0]], dim=1)
        loss = reference.sigmoid_focal_loss(x, labels, gamma=gamma).sum()
        loss = loss + reference.softmax_focal_loss(pair, labels, gamma=gamma, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x)
        assert torch.isfinite(loss)
        assert torch.isfinite(grad).all()


def test_integer_targets_equal_one_hot_targets_and_skip_ignored(rng: torch.Generator) -> None:
    x = torch.randn(2, 5, 3, generator=rng, requires_grad=True)
    labels = torch.tensor([[0, 1, 2, -1, -2], [2, 2, -1, 0, -2]])
    one_hot = (labels[..., None] == torch.arange(3)).float()
    loss = reference.sigmoid_focal_loss(x, labels)
    expected = reference.sigmoid_focal_loss(x, one_hot)
    assert torch.equal(loss[:, :4], expected[:, :4])
    assert torch.equal(loss[:, 4], torch.zeros(2, 3))
    (grad,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(grad[:, 4], torch.zeros(2, 3))
    assert grad[:, :4].abs().min() > 0


def test_ignored_rows_hide_nan_logits() -> None:
    x = torch.tensor([[math.nan, math.inf], [0.0, 0.0]], requires_grad=True)
    loss = reference.sigmoid_focal_loss(x, torch.tensor([-2, 0]), reduction="sum")
    (grad,) = torch.autograd.grad(loss, x)
    assert torch.isfinite(loss)
    assert torch.equal(grad[0], torch.zeros(2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: reference.sigmoid_focal_loss(x, x, alpha=2),
            ValueError,
            r"alpha in \[0, 1\] or -1, got 2",
        ),
        (lambda x: reference.sigmoid_focal_loss(x, x, gamma=-1), ValueError, "gamma finite and not negative"),
        (lambda x: reference.sigmoid_focal_loss(x, x, reduction="avg"), ValueError, "got 'avg'"),
        (lambda x: reference.sigmoid_focal_loss(x, torch.tensor([3])), IndexError, r"labels in \[-2, 2\)"),
        (lambda x: reference.softmax_focal_loss(x, torch.tensor([-1])), IndexError, r"labels in \[0, 2\)"),
        (lambda x: reference.softmax_focal_loss(x, torch.tensor([0]), [1.0] * 3), ValueError, r"shape \[2\]"),
    ],
)
def test_focal_loss_errors(call: Callable[[Tensor], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.zeros(1, 2))


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sigmoid_focal_loss_equals_torchvision(
    torchvision: ModuleType, gamma: float, reduction: str, dtype: torch.dtype, rng: torch.Generator
) -> None:
    x = torch.randn(50, 7, generator=rng).to(dtype).mul(3).requires_grad_()
    t = torch.rand(50, 7, generator=rng).to(dtype).requires_grad_()
    ours = reference.sigmoid_focal_loss(x, t, 0.3, gamma, reduction)
    theirs = torchvision.ops.sigmoid_focal_loss(x, t, 0.3, gamma, reduction)
    # Both round each step, and torchvision cancels in 1 - p: a few dozen roundings.
    tolerance = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (x, t)), torch.autograd.grad(theirs.sum(), (x, t)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- boxes ---


def test_box_iou_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]])
    b = torch.tensor([[1.0, 1.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0], [0.0, 0.0, 2.0, 2.0]])
    iou = reference.box_iou(a, b)
    torch.testing.assert_close(iou, torch.tensor([[1 / 7, 0.0, 1.0], [0.0, 0.0, 0.0]]))
    assert torch.isnan(reference.box_iou(a[1:], a[1:])).all()


def test_box_ops_gradcheck(rng: torch.Generator) -> None:
    boxes = random_boxes(rng, 4).double().requires_grad_()
    anchors = random_boxes(rng, 4).double().requires_grad_()
    deltas = (torch.randn(4, 4, dtype=torch.float64, generator=rng) * 0.2).requires_grad_()
    weights = (10.0, 10.0, 5.0, 5.0)
    assert torch.autograd.gradcheck(reference.box_iou, (boxes, anchors))
    assert torch.autograd.gradcheck(lambda b, a: reference.encode_boxes(b, a, weights), (boxes, anchors))
    assert torch.autograd.gradcheck(lambda d, a: reference.decode_boxes(d, a, weights), (deltas, anchors))


def test_decode_inverts_encode_clamps_and_clips(rng: torch.Generator) -> None:
    boxes, anchors = random_boxes(rng, 20).double(), random_boxes(rng, 20).double()
    weights = (10.0, 10.0, 5.0, 5.0)
    deltas = reference.encode_boxes(boxes, anchors, weights)
    torch.testing.assert_close(reference.decode_boxes(deltas, anchors, weights), boxes)

    huge = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    torch.testing.assert_close(
        reference.decode_boxes(huge, anchor),
        torch.tensor([[-492.0, -492.0, 508.0, 508.0]]),
        rtol=1e-6,
        atol=0,
    )
    clipped = reference.decode_boxes(huge, anchor, image_size=(30, 40))
    assert clipped.tolist() == [[0.0, 0.0, 40.0, 30.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_box_ops_equal_torchvision(torchvision: ModuleType, dtype: torch.dtype, rng: torch.Generator) -> None:
    from torchvision.models.detection._utils import BoxCoder

    boxes, anchors = random_boxes(rng, 200).to(dtype), random_boxes(rng, 200).to(dtype)
    assert torch.equal(reference.box_iou(boxes, anchors), torchvision.ops.box_iou(boxes, anchors))
    weights = (10.0, 10.0, 5.0, 5.0)
    coder = BoxCoder(weights)
    deltas = reference.encode_boxes(boxes, anchors, weights)
    assert torch.equal(deltas, coder.encode_single(boxes, anchors))
    deltas = deltas + torch.randn(deltas.shape, generator=rng).to(dtype) * 10
    assert torch.equal(reference.decode_boxes(deltas, anchors, weights), coder.decode_single(deltas, anchors))


# --- nms ---


def test_nms_ties_nan_and_strict_threshold() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 10, 10]])
    assert reference.nms(boxes, torch.ones(5), 0.5).tolist() == [0, 2, 3]  # equal scores: the first wins
    assert reference.nms(boxes, torch.ones(5), 0.49).tolist() == [0, 3]  # IoU 0.5 is above this
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, math.nan])
    assert reference.nms(boxes, scores, 0.5).tolist() == [4, 2, 3]  # NaN scores come first
    boxes[4, 0] = math.nan
    assert reference.nms(boxes, scores, 0.5).tolist() == [4, 0, 2, 3]  # and NaN boxes suppress nothing
    empty = reference.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert empty.dtype == torch.int64
    assert empty.shape == (0,)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1 / 3, 1.0])
def test_nms_equals_torchvision(torchvision: ModuleType, threshold: float, rng: torch.Generator) -> None:
    # Integer corners put IoUs exactly on the threshold; distinct scores leave no undefined ties.
    boxes = random_boxes(rng, 400, span=20).round()
    scores = torch.randperm(400, generator=rng).float()
    assert torch.equal(reference.nms(boxes, scores, threshold), torchvision.ops.nms(boxes, scores, threshold))
    classes = torch.randint(5, (400,), generator=rng)
    ours = reference.batched_nms(boxes, scores, classes, threshold)
    assert torch.equal(ours, torchvision.ops.boxes._batched_nms_vanilla(boxes, scores, classes, threshold))


# --- matching ---


def test_match_anchors_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 3], [50, 50, 60, 60]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert reference.match_anchors(anchors, [box, box[:0]]).tolist() == [[0, -2, -1, -1], [-1, -1, -1, -1]]
    # The second box's best IoU is 0.3, which restores anchor 2 to its own best box: the second, too.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 1]])
    assert reference.match_anchors(anchors, [boxes]).tolist() == [[0, -2, 1, -1]]
    assert reference.match_anchors(anchors, [boxes], allow_low_quality_matches=False).tolist() == [
        [0, -2, -1, -1]
    ]


def test_match_anchors_box_without_overlap() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    assert reference.match_anchors(anchors, [boxes]).tolist() == [[0, 0]]
    assert reference.match_anchors(anchors, [boxes], match_zero_iou=False).tolist() == [[0, -1]]


def test_match_anchors_names_the_degenerate_box() -> None:
    good, flat = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[0.0, 0, 4, 4], [5, 5, 5, 9]])
    with pytest.raises(ValueError, match="image 1, row 1"):
        reference.match_anchors(good, [good, flat])


@pytest.mark.parametrize("low_quality", [True, False])
def test_match_anchors_equals_torchvision(
    torchvision: ModuleType, low_quality: bool, rng: torch.Generator
) -> None:
    from torchvision.models.detection._utils import Matcher

    anchors = random_boxes(rng, 500).round()
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=low_quality)
    images = [random_boxes(rng, count).round() for count in (1, 5, 60)]
    images.append(images[2][[0, 0, 1, 1]])  # identical boxes
    images.append(anchors[:3].clone())  # boxes equal to an anchor
    images.append(images[0] + 1000)  # a box outside every anchor
    matches = reference.match_anchors(anchors, images, allow_low_quality_matches=low_quality)
    for match, boxes in zip(matches, images, strict=True):
        assert torch.equal(match, matcher(torchvision.ops.box_iou(boxes, anchors)))


# --- the whole loss and the whole detection ---


@pytest.mark.parametrize("box_loss", ["l1", "smooth_l1", "giou"])
def test_retinanet_loss_gradcheck(box_loss: str, rng: torch.Generator) -> None:
    logits, deltas, grid = small_head(rng)
    boxes = [torch.tensor([[1.0, 2.0, 17.5, 19.0], [10.0, 8.0, 33.0, 22.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([2, 0]), torch.zeros(0, dtype=torch.int64)]
    assert (reference.match_anchors(grid, boxes) >= 0).sum() > 2
    inputs = [tensor.requires_grad_() for tensor in (*logits, *deltas)]

    def losses(*tensors: Tensor) -> tuple[Tensor, ...]:
        both = reference.retinanet_loss(tensors[:2], tensors[2:], grid, boxes, labels, box_loss=box_loss)
        return tuple(both.values())

    assert torch.autograd.gradcheck(losses, inputs)


def test_retinanet_loss_without_boxes_is_the_background_loss(rng: torch.Generator) -> None:
    logits, deltas, grid = small_head(rng)
    nothing = [torch.zeros(0, 4)] * 2
    loss = reference.retinanet_loss(logits, deltas, grid, nothing, [torch.zeros(0, dtype=torch.int64)] * 2)
    expected = sum(reference.sigmoid_focal_loss(x, torch.zeros_like(x), reduction="sum") for x in logits)
    torch.testing.assert_close(loss["classification"], expected / 2)
    assert loss["bbox_regression"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_retinanet_loss_of_half_types_is_float32(dtype: torch.dtype, rng: torch.Generator) -> None:
    logits, deltas, grid = small_head(rng, dtype)
    boxes, labels = [torch.tensor([[1.0, 2, 17, 19]])] * 2, [torch.tensor([1])] * 2
    half = reference.retinanet_loss(logits, deltas, grid, boxes, labels)
    wide = reference.retinanet_loss(
        [x.float() for x in logits], [x.float() for x in deltas], grid, boxes, labels
    )
    for name, loss in half.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, wide[name])


def test_retinanet_detect_orders_trims_and_pads() -> None:
    base = torch.tensor([[[-4.0, -4, 4, 4]]])
    grid = AnchorGrid(base, ((16, 16),), ((2, 2),))
    logits = torch.full((2, 2, 2, 2), -10.0)
    logits[0, 1, 0, 1] = 3.0  # class 1 at x = 16, y = 0
    logits[0, 0, 0, 1] = 3.0  # class 0 there: another class, an equal score, a lower index
    logits[0, 0, 1, 1] = 5.0
    detections = reference.retinanet_detect(
        [logits], [torch.zeros(2, 4, 2, 2)], grid, [(18, 32), (32, 32)], detections_per_img=4
    )
    assert detections.counts.tolist() == [3, 0]
    assert detections.labels.tolist() == [[0, 0, 1, -1], [-1] * 4]
    assert detections[0]["boxes"].tolist() == [[12, 12, 20, 18], [12, 0, 20, 4], [12, 0, 20, 4]]
    assert detections.boxes[0, 3].tolist() == [0, 0, 0, 0]
    assert detections.scores[1].tolist() == [0, 0, 0, 0]
    assert [len(image["scores"]) for image in detections] == [3, 0]
    assert len(detections) == 2

    best = reference.retinanet_detect(
        [logits], [torch.zeros(2, 4, 2, 2)], grid, torch.tensor([[18, 32], [32, 32]]), topk_candidates=2
    )
    assert best[0]["labels"].tolist() == [0, 0]


def test_retinanet_detect_candidates_are_per_level(rng: torch.Generator) -> None:
    logits, deltas, grid = small_head(rng)
    sizes = [(32, 40), (20, 30)]
    detections = reference.retinanet_detect(logits, deltas, grid, sizes, topk_candidates=3, nms_thresh=1.0)
    assert detections.counts.tolist() == [6, 6]
    for image, (height, width) in enumerate(sizes):
        boxes, scores, _ = detections[image].values()
        best = torch.cat([level[image].sigmoid().flatten().topk(3).values for level in logits]).float()
        torch.testing.assert_close(scores, best.sort(descending=True).values)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()


def test_detections_are_a_pytree(rng: torch.Generator) -> None:
    logits, deltas, grid = small_head(rng)
    detections = reference.retinanet_detect(logits, deltas, grid, [(32, 40)] * 2)
    leaves, spec = torch.utils._pytree.tree_flatten(detections)
    assert len(leaves) == 4
    assert torch.utils._pytree.tree_unflatten(leaves, spec).counts is detections.counts
