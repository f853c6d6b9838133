"""The ops under torch.func's transforms: dtypes, errors, and that an ordinary call is left alone."""

from typing import Any

import pytest
import torch
from cases import assert_close
from focal_cases import logits, soft_targets
from torch import Tensor
from torch.func import grad, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from transform_cases import ANCHORS, CLASSES, GRID, GT, TARGETS, head_outputs, shifted

from retinanet_fast import ops

# ---- dtypes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_focal_losses_have_the_ops_dtypes(dtype: torch.dtype, reduction: str, autocast: bool) -> None:
    x, soft = logits(6, CLASSES, dtype=dtype), soft_targets(6, CLASSES)
    calls = [
        lambda x: ops.sigmoid_focal_loss(x, TARGETS[0], reduction=reduction),
        lambda x: ops.sigmoid_focal_loss(x, soft, reduction=reduction),
        lambda x: ops.softmax_focal_loss(x, TARGETS[0].clamp_min(0), reduction=reduction),
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for call in calls:
            expected = call(x)
            found = vmap(call)(x[None])[0]
            assert found.dtype == expected.dtype
            assert_close(found, expected)
            assert grad(lambda x, call=call: call(x).float().sum())(x).dtype == dtype


@pytest.mark.parametrize(
    "dtypes",
    [(torch.float16, torch.float16), (torch.bfloat16, torch.float32), (torch.float64, torch.float16)],
)
def test_boxes_have_the_ops_dtypes(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    a, b = shifted(0).to(dtypes[0]), ANCHORS.to(dtypes[1])
    for op in (ops.box_iou, ops.encode_boxes, lambda a, b: ops.decode_boxes(a / 100, b)):
        expected = op(a, b)
        found = vmap(op)(a[None], b[None])[0]
        assert found.dtype == expected.dtype
        assert_close(found, expected)


def test_iou_of_whole_pixels_is_exact_under_vmap() -> None:
    # Areas of about 2^30, which float32 would round.
    a = torch.tensor([[0, 0, 32771, 32779], [3, 5, 32768, 32777]])
    b = torch.tensor([[1, 0, 32771, 32778], [3, 4, 32767, 32777]])
    assert torch.equal(vmap(ops.box_iou)(a[None], b[None])[0], ops.box_iou(a, b))


# ---- errors ---------------------------------------------------------------------------------------------------------


def test_bad_labels_are_found_below_the_wrappers() -> None:
    bad = torch.tensor([[0, 1, 2], [0, 1, CLASSES]])
    x = logits(2, 3, CLASSES)
    for op in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):

        def total(x: Tensor, t: Tensor, op: Any = op) -> Tensor:
            return op(x, t).sum()

        for transformed in (vmap(total), vmap(grad(total))):
            with pytest.raises(IndexError, match=r"expected labels in \[-?\d, 4\), got \[0, 4\]"):
                transformed(x, bad)
        with pytest.raises(IndexError, match="expected labels"):
            grad(total)(x[1], bad[1])


def test_bad_labels_and_boxes_of_the_whole_loss() -> None:
    outputs = head_outputs(0)

    def loss(boxes: Tensor, classes: Tensor, *outputs: Tensor) -> Tensor:
        return sum(ops.retinanet_loss(outputs[:2], outputs[2:], GRID, [boxes], [classes]).values())

    per_image = vmap(grad(loss, argnums=2), in_dims=(0, 0, *[None] * len(outputs)))
    classes = torch.tensor([[0, 1, 2], [0, 1, 3]])
    with pytest.raises(IndexError, match=r"retinanet_loss: expected labels in \[0, 3\), got \[0, 3\]"):
        per_image(torch.stack(GT[:2]), classes, *outputs)
    with pytest.raises(IndexError, match="retinanet_loss"):
        per_image(torch.stack(GT[:2]), torch.tensor([[0, 1, 2], [0, 1, -1]]), *outputs)
    flat = torch.stack(GT[:2])
    flat[1, 2, 2] = flat[1, 2, 0]
    with pytest.raises(ValueError, match="match_anchors: expected finite gt_boxes"):
        per_image(flat, classes.clamp(max=2), *outputs)


def test_shapes_are_checked_as_elsewhere() -> None:
    # The twin of each would broadcast.
    x = logits(6, CLASSES)
    with pytest.raises(ValueError, match="expected float targets of the inputs' shape"):
        grad(lambda x: ops.sigmoid_focal_loss(x, torch.ones(6, 1)).sum())(x)
    with pytest.raises(ValueError, match="expected as many anchors as deltas"):
        grad(lambda x: ops.decode_boxes(x, ANCHORS[:1]).sum())(x)
    with pytest.raises(ValueError, match=r"expected boxes1 \[N, 4\]"):
        vmap(ops.box_iou)(ANCHORS, ANCHORS)


# ---- where the twins are called ------------------------------------------------------------------------------------


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def test_an_ordinary_call_is_not_replaced() -> None:
    x, targets = logits(6, CLASSES), TARGETS[0]
    with Calls() as calls:
        ops.sigmoid_focal_loss(x, targets, reduction="sum")
    assert calls.names == ["retinanet_fast::sigmoid_focal_loss"]
    with Calls() as calls:
        grad(lambda x: ops.sigmoid_focal_loss(x, targets, reduction="sum"))(x)
    assert calls.names
    assert not any(name.startswith("retinanet_fast::") for name in calls.names)
