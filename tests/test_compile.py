"""Every op under Inductor, fullgraph, with sizes that change: one dynamic graph, and the eager results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from retinanet_fast import ops
from retinanet_fast.structures import AnchorGrid, Detections

Call = Callable[[int], Any]  # of a size that the shapes grow with


def boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 40
    return torch.cat((corner, corner + 2 + torch.rand(count, 2, generator=generator) * 30), dim=1)


def grid(n: int) -> AnchorGrid:
    return AnchorGrid(boxes(3)[None] - 20, ((8, 8),), ((n, n + 1),))


def level(n: int, channels: int) -> list[Tensor]:
    return [torch.randn(2, channels, n, n + 1, generator=torch.Generator().manual_seed(n))]


def padded(n: int) -> dict[str, Any]:
    counts = torch.tensor([0, n])
    return {"gt_boxes": torch.stack((boxes(n), boxes(n, 1))), "gt_counts": counts}


def logits(n: int) -> Tensor:
    return torch.linspace(-4, 4, 3 * n).reshape(n, 3)


# Each makes its arguments of a size n; the op sees them as dynamic shapes.
ARGUMENTS: dict[str, Callable[[int], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    "sigmoid_focal_loss": lambda n: ((logits(n), torch.arange(n) % 3), {"reduction": "sum"}),
    "softmax_focal_loss": lambda n: ((logits(n), torch.arange(n) % 3), {}),
    "box_iou": lambda n: ((boxes(n), boxes(n + 1, 1)), {}),
    "encode_boxes": lambda n: ((boxes(n), boxes(n, 1)), {}),
    "decode_boxes": lambda n: ((boxes(n) / 100, boxes(n, 1)), {"image_size": (60, 50)}),
    "nms": lambda n: ((boxes(n), torch.arange(float(n)), 0.3), {}),
    "batched_nms": lambda n: ((boxes(n), torch.arange(float(n)), torch.arange(n) % 2, 0.3), {}),
    "padded_batched_nms": lambda n: (
        (
            torch.stack((boxes(n), boxes(n, 1))),
            torch.arange(2.0 * n).reshape(2, n),
            torch.arange(2 * n).reshape(2, n) % 3,
            0.3,
        ),
        {"max_output": 4},
    ),
    "match_anchors": lambda n: ((grid(n),), padded(n)),
    "retinanet_loss": lambda n: (
        (level(n, 9), level(n, 12), grid(n)),
        {**padded(n), "gt_labels": torch.arange(2 * n).reshape(2, n) % 3},
    ),
    "retinanet_detect": lambda n: (
        (level(n, 9), level(n, 12), grid(n), torch.tensor([[8 * n, 8 * n]] * 2)),
        {"detections_per_img": 6},
    ),
}


def tensors(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Detections):
        return [result.boxes, result.scores, result.labels, result.counts]
    return list(result.values() if isinstance(result, dict) else result)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def test_every_op_is_here() -> None:
    assert set(ARGUMENTS) == set(ops.__all__)


# Its own PyTorch around the op is a dozen C++ kernels to compile.
SLOW = {"padded_batched_nms"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ARGUMENTS]
)
def test_inductor_with_dynamic_sizes(name: str) -> None:
    """The op itself is a call of the same kernel, so results are equal to the bit."""
    op: Any = getattr(ops, name)
    compiled = torch.compile(op, fullgraph=True, dynamic=True)
    for n in (5, 9, 6):
        arguments, keywords = ARGUMENTS[name](n)
        expected = tensors(op(*arguments, **keywords))
        for actual, value in zip(tensors(compiled(*arguments, **keywords)), expected, strict=True):
            assert torch.equal(actual, value)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("name", ["box_iou", "encode_boxes", "nms", "match_anchors"])
def test_no_box_and_one_box_in_the_same_graph(name: str) -> None:
    """Sizes 0 and 1 are graphs of their own unless the caller marks the dimension as unbacked."""
    op: Any = getattr(ops, name)

    def call(first: Tensor, second: Tensor) -> Tensor:
        if name == "nms":
            return op(first, first[:, 0], 0.3)
        return op(first, [second]) if name == "match_anchors" else op(first, second)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for n in (4, 1, 0, 7):
        # encode_boxes takes as many of both; the others any numbers.
        pair = boxes(n), boxes(n, 1)
        anchors = boxes(6) if name == "match_anchors" else pair[0]
        marked = [pair[1]] if name == "match_anchors" else list(pair)
        for tensor in marked:
            torch._dynamo.decorators.mark_unbacked(tensor, 0)
        assert torch.equal(compiled(anchors, pair[1]), call(anchors, pair[1]))
    assert counters["stats"]["unique_graphs"] == 1
