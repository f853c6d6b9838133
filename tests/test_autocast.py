"""What each op does under autocast: the reduced losses of half types are float32, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import DEVICES, assert_close, crowded, make_grid, random_boxes, random_scores
from focal_cases import REDUCTIONS, labels, logits, loss_and_grads, targets_for
from loss_cases import Head, boxes_of
from torch import Tensor

from retinanet_fast import ops, reference

HALVES = [torch.float16, torch.bfloat16]


def upstream_of(loss: Tensor) -> Tensor:
    return torch.full_like(loss, 3.0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("kind", ["labels", "soft", "wide soft"])
def test_the_sigmoid_focal_loss_is_float32(
    kind: str, reduction: str, dtype: torch.dtype, device: str
) -> None:
    x = logits(20, 6, dtype=dtype, device=device)
    targets = targets_for(x.float() if kind == "wide soft" else x, kind.split()[-1])
    arguments = (targets, 0.25, 2.0, reduction)
    with torch.autocast(device, dtype):
        found = loss_and_grads(ops.sigmoid_focal_loss, x, *arguments, upstream=3.0)
        with torch.no_grad():
            assert torch.equal(ops.sigmoid_focal_loss(x, *arguments), found[0])
    wide = targets.float() if targets.is_floating_point() else targets
    expected = loss_and_grads(
        reference.sigmoid_focal_loss, x.float(), wide, 0.25, 2.0, reduction, upstream=3.0
    )
    assert found[0].dtype == torch.float32
    assert_close(found[0], expected[0])
    assert found[1].dtype == dtype
    assert_close(found[1], expected[1].to(dtype))
    for ours, theirs in zip(found[2:], expected[2:], strict=True):  # of soft targets
        assert ours.dtype == targets.dtype
        assert_close(ours, theirs.to(targets.dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_softmax_focal_loss_is_float32(reduction: str, dtype: torch.dtype, device: str) -> None:
    targets = labels(20, classes=6, device=device).clamp_min(0)
    results = []
    x = logits(20, 6, dtype=dtype, device=device).requires_grad_()
    with torch.autocast(device, dtype):
        loss = ops.softmax_focal_loss(x, targets, 0.25, 2.0, reduction)
        results.append((loss, *torch.autograd.grad(loss, x, upstream_of(loss))))
        with torch.no_grad():
            assert torch.equal(ops.softmax_focal_loss(x, targets, 0.25, 2.0, reduction), loss)
    wide = x.detach().float().requires_grad_()
    loss = reference.softmax_focal_loss(wide, targets, 0.25, 2.0, reduction)
    results.append((loss, *torch.autograd.grad(loss, wide, upstream_of(loss))))
    (found, grad), (expected, expected_grad) = results
    assert (found.dtype, grad.dtype) == (torch.float32, dtype)
    assert_close(found, expected)
    assert_close(grad, expected_grad.to(dtype))


@pytest.mark.parametrize("device", DEVICES)
def test_a_sum_that_float16_cannot_hold(device: str) -> None:
    # 0.75 * 0.5^2 * ln 2 for each of 2^20 logits: twice the largest float16.
    x = torch.zeros(1 << 14, 64, dtype=torch.float16, device=device, requires_grad=True)
    background = torch.full((1 << 14,), -1, device=device)
    assert ops.sigmoid_focal_loss(x, background, reduction="sum").item() == float("inf")
    with torch.autocast(device, torch.float16):
        loss = ops.sigmoid_focal_loss(x, background, reduction="sum")
    assert loss.item() == pytest.approx((1 << 20) * 0.75 * 0.25 * 0.6931471805599453, rel=1e-6)
    # A GradScaler's scale of 2^17 is more than a float16 as well; times the gradient of the mean it is not.
    with torch.autocast(device, torch.float16):
        mean = ops.sigmoid_focal_loss(x, background, reduction="mean")
    (grad,) = torch.autograd.grad(mean * 2.0**17, x)
    wide = x.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(
        reference.sigmoid_focal_loss(wide, background, reduction="mean") * 2.0**17, wide
    )
    assert_close(grad, expected.half())


@pytest.mark.parametrize("dtype", HALVES)
def test_wider_logits_keep_their_dtype(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype):
        for wide in (torch.float32, torch.float64):
            x = logits(9, 4, dtype=wide)
            assert ops.sigmoid_focal_loss(x, labels(9, classes=4), reduction="sum").dtype == wide
            assert ops.softmax_focal_loss(x, labels(9, classes=4).clamp_min(0)).dtype == wide


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("op", [ops.sigmoid_focal_loss, ops.softmax_focal_loss])
def test_compile(op: Callable[..., Tensor], reduction: str) -> None:
    def step(x: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return op(x, targets, reduction=reduction)

    targets = labels(9, classes=4).clamp_min(0)
    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        x = logits(9, 4, dtype=torch.bfloat16).requires_grad_()
        loss = function(x, targets)
        results.append((loss, *torch.autograd.grad(loss, x, upstream_of(loss))))
    assert results[1][0].dtype == torch.float32
    assert_close(results[1][0], results[0][0])
    # The traced backward pass scales each element before it is rounded, not after: one rounding.
    assert_close(results[1][1], results[0][1])


@pytest.mark.parametrize("dtype", HALVES)
def test_the_other_ops_do_what_they_do_elsewhere(dtype: torch.dtype) -> None:
    boxes, scores = crowded(50, seed=1)
    narrow = random_boxes(20, dtype=dtype)
    head = Head(make_grid(), boxes_of(4, 2), dtype=dtype)
    sizes = [(100, 100), (80, 90)]

    def results() -> list[Tensor]:
        detections = ops.retinanet_detect(head.logits, head.deltas, head.grid, sizes)
        return [
            ops.nms(boxes, scores.to(dtype), 0.5),
            ops.batched_nms(narrow, random_scores(20), torch.arange(20) % 3, 0.5),
            ops.box_iou(narrow, boxes),
            ops.encode_boxes(narrow, narrow.flip(0)),
            ops.decode_boxes(narrow / 100, narrow),
            ops.match_anchors(head.grid, head.gt_boxes),
            *head.losses().values(),
            detections.boxes,
            detections.scores,
        ]

    expected = results()
    with torch.autocast("cpu", dtype):
        found = results()
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_equals_torchvision(reduction: str, dtype: torch.dtype) -> None:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not importable here")
    x = logits(40, 6, dtype=dtype)
    targets = targets_for(x, "soft").round()
    with torch.autocast("cpu", dtype):
        ours = ops.sigmoid_focal_loss(x, targets, reduction=reduction)
        theirs = torchvision.ops.sigmoid_focal_loss(x, targets, reduction=reduction)
        assert ours.dtype == theirs.dtype
        # torchvision's probabilities are rounded to the half type.
        assert_close(ours.to(dtype), theirs.to(dtype), scale=3.0)
        boxes, scores = crowded(50, seed=1)
        kept = ops.nms(boxes, scores.to(dtype), 0.5)
        assert torch.equal(kept, torchvision.ops.nms(boxes, scores.to(dtype), 0.5))
