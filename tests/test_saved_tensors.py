"""What autograd keeps of a call: tensors of inference mode, gradients in compiled programs, and names in a profile."""

from collections.abc import Callable

import pytest
import torch
from cases import generator, make_grid, random_boxes
from functorch.compile import make_boxed_func
from loss_cases import Head, boxes_of
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch._dynamo.backends.common import aot_autograd

from retinanet_fast import ops

LOGITS = torch.randn(6, 4, generator=generator(1))
SOFT = torch.rand(6, 4, generator=generator(2))
BOXES = random_boxes(6, seed=3)


def whole_loss(logits: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    deltas = torch.zeros(1, 8, 3, 4, requires_grad=True)
    anchors = random_boxes(24, seed=5)
    return sum(ops.retinanet_loss([logits], [deltas], anchors, [boxes], [labels]).values())


# A loss of what is trained and of what a teacher gave.
CALLS: dict[str, tuple[Callable[..., Tensor], Tensor, tuple[Tensor, ...]]] = {
    "sigmoid_focal_loss": (lambda x, t: ops.sigmoid_focal_loss(x, t, reduction="sum"), LOGITS, (SOFT,)),
    "sigmoid_focal_loss-none": (lambda x, t: ops.sigmoid_focal_loss(x, t).sum(), LOGITS, (SOFT,)),
    "softmax_focal_loss": (
        lambda x, t, w: ops.softmax_focal_loss(x, t, w),
        LOGITS,
        (torch.arange(6) % 4, torch.rand(4, generator=generator(4))),
    ),
    "box_iou": (lambda x, b: ops.box_iou(x, b).sum(), BOXES, (BOXES + 1,)),
    "encode_boxes": (lambda x, a: ops.encode_boxes(x, a).sum(), BOXES, (BOXES + 1,)),
    "decode_boxes": (lambda x, a: ops.decode_boxes(x, a).sum(), SOFT, (BOXES,)),
    "retinanet_loss": (
        whole_loss,
        torch.randn(1, 6, 3, 4, generator=generator(6)),
        (BOXES[:2], torch.tensor([0, 2])),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_targets_made_in_inference_mode(name: str) -> None:
    loss, trained, given = CALLS[name]
    with torch.inference_mode():
        from_teacher = [tensor.clone() for tensor in given]
    gradients = []
    for targets in (given, from_teacher):
        leaf = trained.clone().requires_grad_()
        loss(leaf, *targets).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def graphs_of(call: Callable[[], Tensor]) -> list[str]:
    """The code of the forward and the backward graph of a compiled call."""
    graphs: list[str] = []

    def record(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph.code)
        return make_boxed_func(graph.forward)

    torch.compile(call, fullgraph=True, backend=aot_autograd(fw_compiler=record))().backward()
    return graphs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_compiled_step_keeps_the_gradient_of_its_forward_pass(dtype: torch.dtype) -> None:
    head = Head(make_grid(), boxes_of(4, 2), dtype=dtype)
    for leaf in (*head.logits, *head.deltas):
        leaf.requires_grad_()
    forward, backward = graphs_of(lambda: sum(head.losses().values()))
    assert forward.count("retinanet_fast.retinanet_loss_with_gradients") == 1
    assert "retinanet_fast" not in backward

    x = LOGITS.to(dtype, copy=True).requires_grad_()
    forward, backward = graphs_of(lambda: ops.sigmoid_focal_loss(x, torch.arange(6) % 4, reduction="mean"))
    assert forward.count("retinanet_fast.sigmoid_focal_loss_with_gradient") == 1
    assert "retinanet_fast" not in backward


def test_a_profile_shows_the_names_of_the_ops() -> None:
    with torch.profiler.profile() as profile:
        for loss, trained, given in CALLS.values():
            loss(trained.clone().requires_grad_(), *given).backward()
    names = [event.key for event in profile.key_averages() if "retinanet_fast" in event.key]
    assert any("RetinanetLoss" in name for name in names)
    assert not [name for name in names if "anonymous" in name]


@pytest.mark.parametrize("name", CALLS)
def test_compiled_autograd_over_an_eager_loss(name: str) -> None:
    loss, trained, given = CALLS[name]

    def gradient() -> Tensor:
        leaf = trained.clone().requires_grad_()
        loss(leaf, *given).backward()
        assert leaf.grad is not None
        return leaf.grad

    expected = gradient()
    with compiled_autograd._enable(torch.compile(backend="aot_eager")):
        assert torch.equal(gradient(), expected)
        assert torch.equal(gradient(), expected)  # by the graph that the first made


@pytest.mark.parametrize("trained", ["logits", "both"])
def test_compiled_autograd_of_one_of_the_two_losses(trained: str) -> None:
    head = Head(make_grid(), boxes_of(4, 2))
    for leaf in (*head.logits, *(head.deltas if trained == "both" else ())):
        leaf.requires_grad_()

    def gradients() -> list[Tensor]:
        for leaf in head.logits:
            leaf.grad = None
        (2 * head.losses()["classification"]).backward()
        return [leaf.grad for leaf in head.logits]

    expected = gradients()
    with compiled_autograd._enable(torch.compile(backend="aot_eager")):
        assert all(torch.equal(a, b) for a, b in zip(gradients(), expected, strict=True))
