"""The ops on tensors without values refuse what they refuse elsewhere, with the same type of error."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree
from cases import make_grid, random_boxes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from retinanet_fast import ops

GRID = make_grid(levels=2, size=(3, 4))  # 3 anchors per cell
LOGITS = [torch.zeros(2, 3 * 5, *size) for size in GRID.grid_sizes]
DELTAS = [torch.zeros(2, 3 * 4, *size) for size in GRID.grid_sizes]
BOXES = random_boxes(4)
SCORES = torch.rand(4)
X = torch.zeros(6, 3)
LABELS = torch.zeros(6, dtype=torch.int64)


def match(anchors: Any = GRID, boxes: Any = BOXES, **options: float) -> Tensor:
    return ops.match_anchors(anchors, [BOXES, boxes], **options)


def loss(
    logits: Any = None,
    deltas: Any = None,
    anchors: Any = GRID,
    boxes: Any = None,
    labels: Any = None,
    **options: Any,
) -> dict[str, Tensor]:
    return ops.retinanet_loss(
        LOGITS if logits is None else logits,
        DELTAS if deltas is None else deltas,
        anchors,
        [BOXES, BOXES] if boxes is None else boxes,
        [torch.zeros(4, dtype=torch.int64)] * 2 if labels is None else labels,
        **options,
    )


def detect(
    logits: Any = None, deltas: Any = None, anchors: Any = GRID, sizes: Any = None, **options: Any
) -> Any:
    sizes = [(30, 40)] * 2 if sizes is None else sizes
    return ops.retinanet_detect(
        LOGITS if logits is None else logits, DELTAS if deltas is None else deltas, anchors, sizes, **options
    )


WRONG: dict[str, list[Callable[[], object]]] = {
    "sigmoid_focal_loss": [
        lambda: ops.sigmoid_focal_loss(X, X[:, :1]),
        lambda: ops.sigmoid_focal_loss(X, X[:5]),
        lambda: ops.sigmoid_focal_loss(X, LABELS[:5]),
        lambda: ops.sigmoid_focal_loss(X, X.long()),
        lambda: ops.sigmoid_focal_loss(X[0, 0], LABELS[0]),
        lambda: ops.sigmoid_focal_loss(X.long(), LABELS),
        lambda: ops.sigmoid_focal_loss(X, LABELS.short()),
        lambda: ops.sigmoid_focal_loss(X, LABELS, alpha=2.0),
        lambda: ops.sigmoid_focal_loss(X, LABELS, gamma=-1.0),
        lambda: ops.sigmoid_focal_loss(X, LABELS, gamma=float("inf")),
        lambda: ops.sigmoid_focal_loss(X, LABELS, reduction="batchmean"),
    ],
    "softmax_focal_loss": [
        lambda: ops.softmax_focal_loss(X[0], LABELS),
        lambda: ops.softmax_focal_loss(X, LABELS[:5]),
        lambda: ops.softmax_focal_loss(X, LABELS[:, None]),
        lambda: ops.softmax_focal_loss(X, LABELS.float()),
        lambda: ops.softmax_focal_loss(X.long(), LABELS),
        lambda: ops.softmax_focal_loss(X, LABELS, alpha=[1, 2]),
        lambda: ops.softmax_focal_loss(X, LABELS, alpha=-0.5),
        lambda: ops.softmax_focal_loss(X, LABELS, gamma=-1.0),
        lambda: ops.softmax_focal_loss(X, LABELS, reduction="batchmean"),
    ],
    "box_iou": [
        lambda: ops.box_iou(BOXES[0], BOXES),
        lambda: ops.box_iou(BOXES, BOXES[:, :3]),
        lambda: ops.box_iou(BOXES, BOXES > 0),
        lambda: ops.box_iou(BOXES.to(torch.complex64), BOXES),
    ],
    "encode_boxes": [
        lambda: ops.encode_boxes(BOXES, BOXES[:3]),
        lambda: ops.encode_boxes(BOXES[:, :3], BOXES),
        lambda: ops.encode_boxes(BOXES, BOXES[None]),
        lambda: ops.encode_boxes(BOXES, BOXES.long()),
        lambda: ops.encode_boxes(BOXES, BOXES, (1.0, 1.0, 1.0)),
        lambda: ops.encode_boxes(BOXES, BOXES, (1.0, 1.0, 0.0, 1.0)),
    ],
    "decode_boxes": [
        lambda: ops.decode_boxes(BOXES, BOXES[:3]),
        lambda: ops.decode_boxes(BOXES[0], BOXES),
        lambda: ops.decode_boxes(BOXES.long(), BOXES),
        lambda: ops.decode_boxes(BOXES, BOXES, (0.0, 1.0, 1.0, 1.0)),
        lambda: ops.decode_boxes(BOXES, BOXES, image_size=(3, 4, 5)),  # type: ignore[arg-type]
    ],
    "nms": [
        lambda: ops.nms(BOXES[None], SCORES, 0.5),
        lambda: ops.nms(BOXES, SCORES[:3], 0.5),
        lambda: ops.nms(BOXES, SCORES[:, None], 0.5),
        lambda: ops.nms(BOXES.long(), SCORES, 0.5),
        lambda: ops.nms(BOXES, SCORES.long(), 0.5),
    ],
    "batched_nms": [
        lambda: ops.batched_nms(BOXES, SCORES, LABELS, 0.5),
        lambda: ops.batched_nms(BOXES, SCORES, SCORES.to(torch.complex64), 0.5),
        lambda: ops.batched_nms(BOXES[:, :2], SCORES, SCORES, 0.5),
        lambda: ops.batched_nms(BOXES, SCORES.long(), SCORES, 0.5),
    ],
    "padded_batched_nms": [
        lambda: ops.padded_batched_nms(BOXES, SCORES, LABELS[:4], 0.5),
        lambda: ops.padded_batched_nms(BOXES[None], SCORES, LABELS[None, :4], 0.5),
        lambda: ops.padded_batched_nms(BOXES[None], SCORES[None], SCORES[None], 0.5),
    ],
    "match_anchors": [
        lambda: match(boxes=BOXES[:, :3]),
        lambda: match(boxes=BOXES[0]),
        lambda: match(boxes=BOXES.long()),
        lambda: match(anchors=BOXES[None]),
        lambda: match(anchors=BOXES[0]),
        lambda: match(anchors=BOXES.long()),
        lambda: match(anchors=GRID._replace(strides=GRID.strides[:1])),
        lambda: match(anchors=GRID._replace(grid_sizes=GRID.grid_sizes * 2)),
        lambda: match(anchors=GRID._replace(base_anchors=GRID.base_anchors.repeat(5, 1, 1))),
        lambda: match(low_threshold=0.6, high_threshold=0.5),
        lambda: ops.match_anchors(GRID, BOXES[None, :, :3]),
        lambda: ops.match_anchors(GRID, [BOXES], gt_counts=LABELS[:1]),
        lambda: ops.match_anchors(GRID, BOXES[None], gt_counts=LABELS[:2]),
        lambda: ops.match_anchors(GRID, BOXES[None], gt_counts=SCORES[:1]),
    ],
    "retinanet_loss": [
        lambda: loss(logits=[]),
        lambda: loss(logits=LOGITS[:1]),
        lambda: loss(logits=[level[:, :-1] for level in LOGITS]),
        lambda: loss(logits=[level[:1] for level in LOGITS]),
        lambda: loss(logits=[LOGITS[0], LOGITS[1][:, :3]]),
        lambda: loss(logits=[LOGITS[0], LOGITS[1].half()]),
        lambda: loss(logits=[level.long() for level in LOGITS]),
        lambda: loss(logits=[level.double() for level in LOGITS]),
        lambda: loss(deltas=[level[:, :-1] for level in DELTAS]),
        lambda: loss(deltas=[level[:, :0] for level in DELTAS]),
        lambda: loss(deltas=[level[0] for level in DELTAS]),
        lambda: loss(deltas=DELTAS[::-1]),
        lambda: loss(logits=LOGITS * 5, deltas=DELTAS * 5),
        lambda: loss(anchors=BOXES),
        lambda: loss(anchors=GRID._replace(grid_sizes=GRID.grid_sizes[::-1])),
        lambda: loss(anchors=GRID._replace(base_anchors=GRID.base_anchors[:, :2])),
        lambda: loss(boxes=[BOXES]),
        lambda: loss(boxes=[BOXES, BOXES[:3]]),
        lambda: loss(boxes=[BOXES, BOXES[:, :3]]),
        lambda: loss(boxes=[BOXES, BOXES.long()]),
        lambda: loss(labels=[LABELS[:4]]),
        lambda: loss(labels=[LABELS[:4], LABELS[:4].float()]),
        lambda: loss(labels=[LABELS[:4], LABELS[:4, None]]),
        lambda: loss(boxes=BOXES[None], labels=LABELS[None, :4]),
        lambda: loss(boxes=BOXES.expand(2, 4, 4), labels=LABELS.expand(2, 6)),
        lambda: loss(boxes=BOXES.expand(2, 4, 4), labels=LABELS[:4].expand(2, 4), gt_counts=LABELS[:3]),
        lambda: loss(alpha=-0.5),
        lambda: loss(gamma=-1.0),
        lambda: loss(box_loss="l2"),
        lambda: loss(smooth_l1_beta=-1.0),
        lambda: loss(box_weights=(1.0, 1.0)),
        lambda: loss(low_threshold=0.6),
    ],
    "retinanet_detect": [
        lambda: detect(logits=LOGITS[:1]),
        lambda: detect(logits=[level[:, :-1] for level in LOGITS]),
        lambda: detect(deltas=[LOGITS[0], DELTAS[1]]),
        lambda: detect(logits=[LOGITS[0], LOGITS[1].half()]),
        lambda: detect(anchors=BOXES),
        lambda: detect(anchors=GRID._replace(base_anchors=GRID.base_anchors[:1])),
        lambda: detect(sizes=[(30, 40)]),
        lambda: detect(sizes=torch.ones(2, 3, dtype=torch.int64)),
        lambda: detect(sizes=torch.ones(2, 2)),
        lambda: detect(score_thresh=torch.ones(4)),
        lambda: detect(topk_candidates=0),
        lambda: detect(detections_per_img=0),
        lambda: detect(box_weights=(1.0, 1.0, 1.0)),
        lambda: detect(soft_nms="cubic"),
        lambda: detect(soft_nms="gaussian", soft_nms_sigma=0.0),
    ],
}
CALLS = [
    pytest.param(op, call, id=f"{op}-{n}") for op, calls in WRONG.items() for n, call in enumerate(calls)
]


def test_every_op_has_wrong_calls() -> None:
    assert sorted(WRONG) == sorted(ops.__all__)


@pytest.mark.parametrize(("op", "call"), CALLS)
def test_wrong_arguments(op: str, call: Callable[[], object]) -> None:
    with pytest.raises((ValueError, TypeError)) as real:
        call()
    assert str(real.value).startswith(f"{op}: ")
    for dynamic in (False, True):
        mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv() if dynamic else None)
        with mode, pytest.raises(real.type) as fake:
            call()
        assert words(fake.value) == words(real.value)


def words(error: BaseException) -> str:
    """What an error says up to what was found, without the ways in which C++ and Python write a list or a dtype."""
    expected = str(error).split(", got ")[0]
    return re.sub(r"torch\.\w+|[A-Z][a-z]+(?= and|$)", "DTYPE", expected)


def test_words_of_an_error_keep_what_matters() -> None:
    assert words(ValueError("nms: expected boxes [N, 4], got [3]")) == "nms: expected boxes [N, 4]"


RIGHT: dict[str, Callable[..., object]] = {
    "sigmoid_focal_loss": lambda: [
        ops.sigmoid_focal_loss(X, LABELS, reduction="mean"),
        ops.sigmoid_focal_loss(X, X.half()),
    ],
    "softmax_focal_loss": lambda: ops.softmax_focal_loss(X, LABELS, alpha=[1, 2, 3]),
    "box_iou": lambda: [ops.box_iou(BOXES, BOXES[:2].half()), ops.box_iou(BOXES.int(), BOXES.byte())],
    "encode_boxes": lambda: ops.encode_boxes(BOXES, BOXES.half()),
    "decode_boxes": lambda: ops.decode_boxes(BOXES, BOXES.double(), image_size=(3, 4)),
    "match_anchors": lambda: [match(), match(GRID.boxes())],
    "retinanet_loss": lambda: [loss(), loss(anchors=GRID.boxes(), deltas=[level.half() for level in DELTAS])],
    "retinanet_detect": lambda: detect(score_thresh=torch.ones(5), sizes=torch.ones(2, 2).int()),
}


@pytest.mark.parametrize("op", RIGHT)
def test_right_arguments_give_what_the_op_gives(op: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = pytree.tree_leaves(RIGHT[op]())
    for fake, real in zip(fakes, pytree.tree_leaves(RIGHT[op]()), strict=True):
        assert (fake.shape, fake.dtype, fake.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize(
    "call",
    [
        lambda other: ops.sigmoid_focal_loss(X, LABELS.to(other)),
        lambda other: ops.softmax_focal_loss(X, LABELS.to(other)),
        lambda other: ops.box_iou(BOXES, BOXES.to(other)),
        lambda other: ops.encode_boxes(BOXES, BOXES.to(other)),
        lambda other: ops.decode_boxes(BOXES, BOXES.to(other)),
        lambda other: ops.nms(BOXES, SCORES.to(other), 0.5),
        lambda other: ops.batched_nms(BOXES, SCORES, LABELS[:4].to(other), 0.5),
        lambda other: match(boxes=BOXES.to(other)),
        lambda other: loss(boxes=[BOXES, BOXES.to(other)]),
        lambda other: loss(labels=[LABELS[:4].to(other), LABELS[:4]]),
        lambda other: loss(deltas=[level.to(other) for level in DELTAS]),
        lambda other: detect(anchors=GRID.to(other)),
        lambda other: detect(score_thresh=torch.ones(5, device=other)),
    ],
)
def test_devices(call: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match=r"expected .* on \w+, got meta"):
        call("meta")


def test_sizes_of_a_program_stay_symbolic() -> None:
    """Only what an op demands becomes a guard: the number of boxes and the image's size stay free."""

    def program(boxes: Tensor, scores: Tensor, logits: Tensor, deltas: Tensor) -> Tensor:
        height, width = logits.shape[-2:]
        grid = GRID._replace(
            base_anchors=GRID.base_anchors[:1], strides=((8, 8),), grid_sizes=((height, width),)
        )
        found = ops.retinanet_detect([logits], [deltas], grid, [(64, 64)] * 2)
        matches = ops.match_anchors(grid, [boxes])
        kept = ops.nms(boxes, scores, 0.5)
        return found.scores.sum() + ops.box_iou(boxes[kept], boxes).sum() + matches.sum()

    graphs = 0

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    compiled = torch.compile(program, backend=backend, dynamic=True, fullgraph=True)
    # No two sizes are equal at first, or the compiler would take them for one.
    for count, size in ((7, (5, 6)), (9, (8, 3)), (4, (4, 4))):
        boxes, scores = random_boxes(count), torch.rand(count)
        outputs = torch.randn(2, 15, *size), torch.randn(2, 12, *size)
        torch.testing.assert_close(compiled(boxes, scores, *outputs), program(boxes, scores, *outputs))
    assert graphs == 1
