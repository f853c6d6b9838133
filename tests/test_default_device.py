"""Another default device (`with torch.device(...)`) changes nothing for tensors that lie elsewhere."""

from collections.abc import Callable

import pytest
import torch
import torch.utils._pytree as pytree
from cases import generator, make_grid, random_boxes
from detect_cases import random_head
from torch import Tensor
from torch.func import grad

from retinanet_fast import ops
from retinanet_fast.models import retinanet_resnet18_fpn

GRID = make_grid()
BOXES = random_boxes(6)
SCORES = torch.rand(6, generator=generator(0))
X = torch.randn(6, 3, generator=generator(1))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
HEAD = random_head()

CALLS: dict[str, Callable[[], object]] = {
    "sigmoid_focal_loss": lambda: ops.sigmoid_focal_loss(X, LABELS, reduction="mean"),
    "softmax_focal_loss": lambda: ops.softmax_focal_loss(X, LABELS, alpha=[1.0, 2.0, 3.0]),
    "box_iou": lambda: ops.box_iou(BOXES, BOXES),
    "encode_boxes": lambda: ops.encode_boxes(BOXES, BOXES + 1),
    "decode_boxes": lambda: ops.decode_boxes(BOXES / 100, BOXES, image_size=(50, 60)),
    "nms": lambda: ops.nms(BOXES, SCORES, 0.3),
    "batched_nms": lambda: ops.batched_nms(BOXES, SCORES, LABELS, 0.3),
    "padded_batched_nms": lambda: ops.padded_batched_nms(BOXES[None], SCORES[None], LABELS[None], 0.3),
    "match_anchors": lambda: ops.match_anchors(GRID, [BOXES, BOXES[:0]]),
    "retinanet_loss": lambda: ops.retinanet_loss(
        *HEAD, [BOXES, BOXES[:0]], [LABELS, LABELS[:0]], match_zero_iou=False
    ),
    "retinanet_detect": lambda: ops.retinanet_detect(*HEAD, [(50, 60), (40, 30)]),
    "anchors": lambda: GRID.boxes(),
}


def test_every_op_is_called() -> None:
    assert CALLS.keys() >= set(ops.__all__)


@pytest.mark.parametrize("name", CALLS)
def test_calls(name: str) -> None:
    expected = CALLS[name]()
    with torch.device("meta"):
        found = CALLS[name]()
    for tensor, wanted in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        assert tensor.device == wanted.device
        assert torch.equal(tensor, wanted)


def test_under_transforms() -> None:
    def loss(logits: Tensor) -> Tensor:
        return sum(
            ops.retinanet_loss([logits, *HEAD[0][1:]], HEAD[1], HEAD[2], [BOXES] * 2, [LABELS] * 2).values()
        )

    expected = grad(loss)(HEAD[0][0])
    with torch.device("meta"):
        assert torch.equal(grad(loss)(HEAD[0][0]), expected)


def test_model() -> None:
    model = retinanet_resnet18_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=96, score_thresh=0.0
    )
    image = torch.rand(3, 60, 70, generator=generator(2))
    target = {"boxes": BOXES / 2, "labels": LABELS.clamp(max=2)}
    for training in (False, True):
        model.train(training)
        with torch.no_grad():
            arguments = ([image], [target]) if training else ([image],)
            expected = pytree.tree_leaves(model(*arguments))
            with torch.device("meta"):
                found = pytree.tree_leaves(model(*arguments))
        assert [x.device.type for x in found] == ["cpu"] * len(expected)
        assert training or all(map(torch.equal, found, expected))
