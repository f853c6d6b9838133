"""`retinanet_loss` as an op: autograd, tracing, threads, memory, bad input; and beside torchvision."""

from collections.abc import Callable

import pytest
import torch
from cases import generator, make_grid, num_threads
from loss_cases import GRAD_TOLERANCE, Head, boxes_of, channels_last, mixed
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.structures import AnchorGrid


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_second_backward_is_right(dtype: torch.dtype) -> None:
    head = Head(make_grid(), boxes_of(4, 2), dtype=dtype)
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
    classification, regression = head.losses().values()
    first = torch.autograd.grad(classification, head.logits, retain_graph=True)
    both = torch.autograd.grad(3 * classification + regression, leaves, retain_graph=True)
    again = torch.autograd.grad(3 * classification + regression, leaves)
    for a, b, single in zip(both, again, first, strict=False):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, 3 * single, rtol=GRAD_TOLERANCE[dtype] * 2, atol=1e-7)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(classification, leaves)


def test_gradients_accumulate() -> None:
    head = Head(make_grid(), boxes_of(4, 2))
    _, once = head.gradients()
    for _ in range(2):
        (sum(head.losses().values()) / 2).backward()
    for leaf, grad in zip([*head.logits, *head.deltas], once, strict=True):
        torch.testing.assert_close(leaf.grad, grad)


def test_only_what_needs_a_gradient_gets_one() -> None:
    head = Head(make_grid(), boxes_of(4))
    assert not any(loss.requires_grad for loss in head.losses().values())
    head.deltas[1].requires_grad_()
    losses = head.losses()
    assert losses["bbox_regression"].requires_grad
    assert not losses["classification"].requires_grad
    losses["bbox_regression"].backward()
    assert head.deltas[1].grad is not None
    assert head.deltas[0].grad is None
    with torch.no_grad():
        assert not any(loss.requires_grad for loss in head.losses().values())


def test_second_derivative_raises() -> None:
    head = Head(make_grid(), boxes_of(4))
    head.logits[0].requires_grad_()
    (grad,) = torch.autograd.grad(head.losses()["classification"], head.logits[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="retinanet_loss: has no second derivative"):
        torch.autograd.grad(grad.sum(), head.logits[0])


def test_inputs_changed_in_place_are_noticed() -> None:
    head = Head(make_grid(), boxes_of(4))
    head.logits[0].requires_grad_()
    inner = head.logits[0] * 1
    head.logits = [inner, *head.logits[1:]]
    loss = head.losses()["classification"]
    inner.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("layout", [lambda level, x: x, channels_last])
def test_same_bits_on_any_number_of_threads(layout: Callable[[int, Tensor], Tensor]) -> None:
    results = []
    for threads in (1, 2, 2):
        head = Head(make_grid(4, 9, (50, 60)), boxes_of(20, 5, size=400.0), 11, layout=layout)
        with num_threads(threads):
            losses, grads = head.gradients()
        results.append([*losses, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_autocast_and_grad_scaler() -> None:
    weight = torch.randn(12, 8, 1, 1, generator=generator(1)).mul(0.1).requires_grad_()
    features = torch.randn(1, 8, 13, 17, generator=generator(2))
    head = Head(make_grid(1), boxes_of(6), classes=4)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head.logits = [torch.nn.functional.conv2d(features, weight)]
        assert head.logits[0].dtype == torch.bfloat16
        head.deltas = [x.bfloat16() for x in head.deltas]
        losses = head.losses()
        expected = head.losses(reference.retinanet_loss)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name], rtol=1e-5, atol=1e-6)
    (scaled,) = torch.autograd.grad(scaler.scale(losses["classification"]), weight, retain_graph=True)
    (plain,) = torch.autograd.grad(expected["classification"], weight)
    # bfloat16 gradients of 221 positions, rounded separately.
    torch.testing.assert_close(scaled / 1024.0, plain, rtol=0, atol=0.02 * float(plain.abs().max()))


def arguments(head: Head) -> tuple[object, ...]:
    pairs = [[n for pair in pairs for n in pair] for pairs in (head.grid.strides, head.grid.grid_sizes)]
    rule = (None, 0.25, 2.0, "l1", 1 / 9, (1.0, 1.0, 1.0, 1.0), 0.5, 0.4, True, True)
    return (
        head.logits, head.deltas, head.grid.base_anchors, *pairs, head.gt_boxes, head.gt_labels, *rule
    )  # fmt: skip


@pytest.mark.parametrize("layout", [lambda level, x: x, mixed])
def test_opcheck(layout: Callable[[int, Tensor], Tensor]) -> None:
    head = Head(make_grid(), boxes_of(4, 2), layout=layout)
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_()
    torch.library.opcheck(torch.ops.retinanet_fast.retinanet_loss.default, arguments(head))
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_(False)
    ones = (torch.ones(()), torch.ones(()))
    torch.library.opcheck(torch.ops.retinanet_fast.retinanet_loss_backward.default, (*ones, *arguments(head)))
    both = torch.ops.retinanet_fast.retinanet_loss_with_gradients.default
    for wanted in ((True, True), (True, False), (False, True)):
        torch.library.opcheck(both, (*wanted, *arguments(head)))


def test_compile() -> None:
    def total(logits: list, deltas: list, grid: AnchorGrid, boxes: list, labels: list) -> Tensor:
        losses = ops.retinanet_loss(logits, deltas, grid, boxes, labels)
        return losses["classification"] + 2 * losses["bbox_regression"]

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    for size, counts in (((13, 17), (4, 2)), ((14, 18), (4, 2)), ((9, 30), (1, 0))):
        head = Head(make_grid(size=size), boxes_of(*counts))
        leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]
        results = []
        for function in (total, compiled):
            loss = function(head.logits, head.deltas, head.grid, head.gt_boxes, head.gt_labels)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
        for eager, traced in zip(*results, strict=True):
            torch.testing.assert_close(eager, traced, rtol=1e-6, atol=1e-9)


def change(head: Head, **attributes: object) -> Head:
    for name, value in attributes.items():
        setattr(head, name, value)
    return head


# One row: of several, CUDA names any.
NO_AREA_IN_ROW_2 = boxes_of(4)[0] * torch.tensor([[1.0], [1.0], [0.0], [1.0]])


@pytest.mark.parametrize(
    ("attributes", "options", "error", "message"),
    [
        ({"logits": []}, {}, ValueError, "expected one or more levels of cls_logits .* got 0 and 3"),
        ({"logits": [torch.zeros(2, 9, 13, 17)]}, {}, ValueError, "as many of bbox_regression, got 1 and 3"),
        ({"gt_boxes": boxes_of(1)}, {}, ValueError, "gt_boxes and gt_labels of 2 images, got 1 and 2"),
        ({"gt_labels": [torch.zeros(5).long()] * 2}, {}, ValueError, "a label for each box of image 0"),
        ({"gt_labels": [torch.zeros(4), torch.zeros(2)]}, {}, TypeError, "gt_labels of int64 or int32"),
        ({"gt_labels": [torch.full((4,), 3), torch.zeros(2).long()]}, {}, IndexError, r"\[0, 3\), got 3 in image 0"),
        ({"gt_labels": [torch.full((4,), -1), torch.zeros(2).long()]}, {}, IndexError, r"\[0, 3\), got -1 in image 0"),
        ({"gt_boxes": [NO_AREA_IN_ROW_2, boxes_of(2)[0]]}, {}, ValueError, "finite gt_boxes .* image 0, row 2"),
        ({"grid": make_grid(size=(14, 17))}, {}, ValueError, "expected an AnchorGrid of 3 levels .* 13 x 17 cells"),
        ({"grid": torch.zeros(5, 4)}, {}, ValueError, r"expected anchors \[\d+, 4\] for these levels, got \[5, 4\]"),
        ({}, {"box_loss": "l2"}, ValueError, "expected box_loss 'l1', 'smooth_l1' or 'giou', got 'l2'"),
        ({}, {"alpha": 1.5}, ValueError, r"expected alpha in \[0, 1\], or -1 for none, got 1.5"),
        ({}, {"gamma": -1.0}, ValueError, "expected .*gamma"),
        ({}, {"box_weights": (1.0,)}, ValueError, "expected 4 box_weights"),
        ({}, {"box_weights": (1.0, 0.0, 1.0, 1.0)}, ValueError, "expected box_weights other than 0"),
        ({}, {"smooth_l1_beta": -1.0}, ValueError, "expected smooth_l1_beta >= 0"),
        ({}, {"low_threshold": 0.9}, ValueError, "expected low_threshold <= high_threshold"),
    ],
)  # fmt: skip
def test_bad_input(
    attributes: dict[str, object], options: dict[str, object], error: type[Exception], message: str
) -> None:
    head = change(Head(make_grid(), boxes_of(4, 2)), **attributes)
    with pytest.raises(error, match="retinanet_loss: .*" + message):
        head.losses(**options)


def test_outputs_of_different_shape_or_dtype() -> None:
    head = Head(make_grid(), boxes_of(4, 2))
    wide = change(Head(make_grid(), boxes_of(4, 2)), deltas=[x.double() for x in head.deltas])
    with pytest.raises(
        TypeError, match="expected float64 bbox_regression beside float64 cls_logits and no other"
    ):
        wide.losses()
    transposed = change(Head(make_grid(), boxes_of(4, 2)), logits=[x.mT for x in head.logits])
    with pytest.raises(ValueError, match=r"expected cls_logits\[0\] .* beside its bbox_regression"):
        transposed.losses()


def test_extra_memory_is_small() -> None:
    head = Head(make_grid(2, 9, (32, 32)), boxes_of(20, 20, size=200.0), classes=80)
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_()
    with torch.profiler.profile(profile_memory=True) as profile:
        losses = head.losses()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    outputs = sum(x.nbytes for x in (*head.logits, *head.deltas))
    logits = sum(x.nbytes for x in head.logits)
    assert outputs <= allocated <= outputs + 0.05 * logits
    del losses


def test_equals_torchvision() -> None:
    pytest.importorskip("torchvision", reason="torchvision is not importable here")
    import torchvision
    from torchvision.models.detection._utils import Matcher
    from torchvision.models.detection.retinanet import RetinaNetHead

    classes = 5
    head = Head(make_grid(), boxes_of(4, 0, 30), classes)
    theirs = RetinaNetHead(8, 3, classes)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    anchors = head.grid.boxes()
    leaves = [x.requires_grad_() for x in (*head.logits, *head.deltas)]

    def flatten(outputs: list[Tensor], values: int) -> Tensor:
        rows = [
            x.view(len(x), -1, values, *x.shape[2:]).permute(0, 3, 4, 1, 2).reshape(len(x), -1, values)
            for x in outputs
        ]
        return torch.cat(rows, dim=1)

    outputs = {"cls_logits": flatten(head.logits, classes), "bbox_regression": flatten(head.deltas, 4)}
    targets = [{"boxes": b, "labels": n} for b, n in zip(head.gt_boxes, head.gt_labels, strict=True)]
    matches = [
        matcher(torchvision.ops.box_iou(b, anchors)) if len(b) else torch.full((len(anchors),), -1)
        for b in head.gt_boxes
    ]
    expected = theirs.compute_loss(targets, outputs, [anchors] * 3, matches)
    losses = head.losses()
    # torchvision takes 1 - p by subtraction, which costs a digit.
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
    for ours, other in zip(
        torch.autograd.grad(sum(losses.values()), leaves),
        torch.autograd.grad(sum(expected.values()), leaves),
        strict=True,
    ):
        torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-7)
