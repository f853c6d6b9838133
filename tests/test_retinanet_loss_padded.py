"""Boxes and labels of a batch as padded tensors and counts: the same as lists, for matching and loss."""

from collections.abc import Sequence

import pytest
import torch
from cases import DEVICES, make_grid, needs_gpu, random_boxes
from kernel_cases import padded
from loss_cases import Head, boxes_of
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from retinanet_fast import ops, reference

COUNTS = [(3, 0, 7), (0, 0), (5,), (1, 1)]


def losses_and_gradients(
    head: Head, boxes: Sequence[Tensor] | Tensor, labels: Sequence[Tensor] | Tensor, counts: Tensor | None
) -> list[Tensor]:
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
    losses = ops.retinanet_loss(head.logits, head.deltas, head.grid, boxes, labels, gt_counts=counts)
    total = losses["classification"] - 2 * losses["bbox_regression"]
    return [*losses.values(), *torch.autograd.grad(total, leaves)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("low_quality", [True, False])
def test_matches_equal_those_of_lists(counts: tuple[int, ...], low_quality: bool, device: str) -> None:
    boxes = [x.to(device) for x in boxes_of(*counts)]
    all_boxes, _, real = padded(boxes)
    grid = make_grid(device=device)
    for anchors in (grid, grid.boxes()):
        matches = ops.match_anchors(anchors, all_boxes, gt_counts=real, allow_low_quality_matches=low_quality)
        assert torch.equal(matches, ops.match_anchors(anchors, boxes, allow_low_quality_matches=low_quality))
        assert torch.equal(
            matches,
            reference.match_anchors(
                anchors, all_boxes, gt_counts=real, allow_low_quality_matches=low_quality
            ),
        )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("counts", COUNTS)
def test_loss_equals_that_of_lists(counts: tuple[int, ...], device: str) -> None:
    head = Head(make_grid(), boxes_of(*counts), device=device)
    all_boxes, all_labels, real = padded(head.gt_boxes, head.gt_labels)
    expected = losses_and_gradients(head, head.gt_boxes, head.gt_labels, None)
    found = losses_and_gradients(head, all_boxes, all_labels, real.int())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    twin = reference.retinanet_loss(
        head.logits, head.deltas, head.grid, all_boxes, all_labels, gt_counts=real
    )
    # The twin adds the float32 terms in another order.
    torch.testing.assert_close(list(twin.values()), found[:2], rtol=1e-5, atol=1e-5)


def test_without_counts_all_rows_are_boxes() -> None:
    head = Head(make_grid(), boxes_of(4, 4))
    stacked = torch.stack(head.gt_boxes), torch.stack(head.gt_labels)
    expected = losses_and_gradients(head, head.gt_boxes, head.gt_labels, None)
    found = losses_and_gradients(head, *stacked, None)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (torch.tensor([1, 6]), ValueError, r"expected gt_counts of at least 0 and at most .* image 1"),
        (torch.tensor([-1, 2]), ValueError, r"expected gt_counts of at least 0 .* image 0"),
        (torch.tensor([1]), ValueError, r"expected gt_counts \[2\], got \[1\]"),
        (torch.tensor([1.0, 2.0]), TypeError, "expected gt_counts of int64 or int32, got Float"),
    ],
)  # fmt: skip
def test_bad_counts(counts: Tensor, error: type[Exception], message: str) -> None:
    head = Head(make_grid(), boxes_of(3, 3))
    all_boxes, all_labels, _ = padded(head.gt_boxes, head.gt_labels)
    with pytest.raises(error, match="match_anchors: " + message):
        ops.match_anchors(head.grid, all_boxes, gt_counts=counts)
    with pytest.raises(error, match="retinanet_loss: " + message):
        losses_and_gradients(head, all_boxes, all_labels, counts)


@pytest.mark.parametrize("labels", [[], [torch.zeros(0, 3).long()] * 2])
def test_another_number_of_label_tensors(labels: list[Tensor]) -> None:
    head = Head(make_grid(), [])
    with pytest.raises(ValueError, match="expected gt_boxes and gt_labels of 0 images"):
        losses_and_gradients(head, torch.zeros(0, 3, 4), labels, None)


def test_counts_beside_a_list() -> None:
    with pytest.raises(ValueError, match=r"expected gt_counts beside gt_boxes \[B, G, 4\] alone"):
        ops.match_anchors(make_grid(), boxes_of(3), gt_counts=torch.tensor([3]))


def test_bad_labels_and_boxes_name_image_and_row() -> None:
    head = Head(make_grid(), boxes_of(3, 2))
    all_boxes, all_labels, counts = padded(head.gt_boxes, head.gt_labels)
    broken = all_labels.clone()
    broken[1, 1] = 3
    with pytest.raises(IndexError, match=r"gt_labels in \[0, 3\), got 3 in image 1, row 1"):
        losses_and_gradients(head, all_boxes, broken, counts)
    all_boxes[1, 0, 2] = torch.inf
    with pytest.raises(ValueError, match="another in image 1, row 0"):
        losses_and_gradients(head, all_boxes, all_labels, counts)


def test_one_graph_for_all_counts() -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def total(head_outputs: list[list[Tensor]], boxes: Tensor, labels: Tensor, counts: Tensor) -> Tensor:
        losses = ops.retinanet_loss(*head_outputs, head.grid, boxes, labels, gt_counts=counts)
        return losses["classification"] + losses["bbox_regression"]

    compiled = torch.compile(total, fullgraph=True, backend=counter)
    for counts in ((3, 2), (0, 0), (1, 4), (1, 0)):
        head = Head(make_grid(), boxes_of(*counts))
        padding = padded(head.gt_boxes, head.gt_labels, room=6 - max(counts))
        leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
        results = []
        for function in (total, compiled):
            loss = function([head.logits, head.deltas], *padding)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        for eager, traced in zip(*results, strict=True):
            assert torch.equal(eager, traced)
    assert counter.frame_count == 1


@needs_gpu
def test_a_cuda_graph_sees_new_boxes() -> None:
    heads = [
        Head(make_grid(), boxes_of(*counts), device="cuda", seed=1) for counts in ((3, 2), (0, 5), (1, 0))
    ]
    buffers = padded(heads[0].gt_boxes, heads[0].gt_labels, room=4)
    head = heads[0]
    losses_and_gradients(head, *buffers)  # what is allocated once
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = losses_and_gradients(head, *buffers)
    for other in heads:
        rows = buffers[0].shape[1] - max(map(len, other.gt_boxes))
        for buffer, new in zip(buffers, padded(other.gt_boxes, other.gt_labels, room=rows), strict=True):
            buffer.copy_(new)
        graph.replay()
        expected = losses_and_gradients(head, other.gt_boxes, other.gt_labels, None)
        assert all(torch.equal(a, b) for a, b in zip(captured, expected, strict=True))


@needs_gpu
def test_a_bad_count_on_the_gpu_is_raised_later() -> None:
    from retinanet_fast import synchronize_errors

    boxes = torch.stack([random_boxes(3, device="cuda")] * 2)
    matches = ops.match_anchors(
        make_grid(device="cuda"), boxes, gt_counts=torch.tensor([3, 4], device="cuda")
    )
    with pytest.raises(ValueError, match=r"expected gt_counts of at least 0 .* image 1"):
        synchronize_errors()
    assert (matches[1] == -1).all()
