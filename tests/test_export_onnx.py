"""The ops in ONNX's standard operators, run by onnxruntime beside the ops themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from retinanet_fast import ops
from retinanet_fast.export import onnx_translations
from retinanet_fast.structures import AnchorGrid, Detections

pytest.importorskip("onnxscript", reason="exporting to ONNX needs onnxscript")
onnxruntime = pytest.importorskip("onnxruntime", reason="nothing else here runs ONNX files")

CLASSES, SHAPES = 5, 3


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors)


def exported(
    folder: Path, function: Callable[..., Any], tensors: list[Tensor], dynamic: Any = None
) -> Callable[[list[Tensor]], list[Tensor]]:
    """``function`` by onnxruntime; every operator is one of ONNX's own."""
    program = torch.onnx.export(
        Function(function).eval(),
        tuple(tensors),
        dynamo=True,
        opset_version=18,
        custom_translation_table=onnx_translations(),
        dynamic_shapes=None if dynamic is None else (tuple(dynamic),),
        verbose=False,
    )
    assert program is not None
    assert {node.domain for node in program.model_proto.graph.node} == {""}
    assert not program.model_proto.functions
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: list[Tensor]) -> list[Tensor]:
        arrays = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        return [torch.from_numpy(array) for array in arrays]

    return run


def boxes_of(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 60], dim=1)


def levels(batch: int, sizes: list[tuple[int, int]], scale: float = 2.0, seed: int = 0) -> list[Tensor]:
    """Logits, then deltas, of each level."""
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(batch, SHAPES * CLASSES, h, w, generator=generator) * scale - 2 for h, w in sizes]
    return logits + [torch.randn(batch, SHAPES * 4, h, w, generator=generator) * 0.3 for h, w in sizes]


def grid(head: list[Tensor]) -> AnchorGrid:
    half = torch.tensor([[16.0, 12], [12, 16], [24, 24]])
    base = torch.stack([torch.cat([-half * 2**level, half * 2**level], dim=1) for level in range(2)])
    shapes = [level.shape[-2:] for level in head[:2]]
    return AnchorGrid(base, ((16, 8), (32, 32)), tuple((h, w) for h, w in shapes))


def detect(head: list[Tensor], sizes: Tensor, **options: Any) -> tuple[Tensor, ...]:
    anchors = options.pop("anchors", None)
    found = ops.retinanet_detect(
        head[:2], head[2:], grid(head) if anchors is None else anchors, sizes, **options
    )
    return found.boxes, found.scores, found.labels, found.counts


def check_detect(folder: Path, head: list[Tensor], sizes: Tensor, **options: Any) -> Detections:
    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return detect(list(tensors[:4]), tensors[4], **options)

    expected = function(*head, sizes)
    # Scores and boxes are computed in float64 on both sides and rounded once, so the same bits are expected. Another
    # exp may differ in float64's last bit, which a float32 shows once in 2^28 numbers.
    for ours, theirs in zip(
        exported(folder, function, [*head, sizes])([*head, sizes]), expected, strict=True
    ):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    return Detections(*expected)


SIZES = torch.tensor([[120, 90], [128, 96]])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"topk_candidates": 7, "detections_per_img": 5, "nms_thresh": 0.3},
    {"score_thresh": torch.tensor([0.1, 0.5, 0.2, 0.9, 1.0])},
    {"score_thresh": 0.0, "topk_candidates": 10_000, "nms_thresh": 0.6, "box_weights": (10, 10, 5, 5)},
    {"nms_thresh": 1.0, "detections_per_img": 3_000},
    {"score_thresh": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: ",".join(options) or "defaults")
def test_detect_is_the_ops(tmp_path: Path, options: dict[str, Any]) -> None:
    found = check_detect(tmp_path, levels(2, [(8, 12), (4, 3)]), SIZES, **options)
    assert (found.counts > 0).all() or options == {"score_thresh": 1.0}


def test_detect_on_given_anchors(tmp_path: Path) -> None:
    head = levels(2, [(8, 12), (4, 3)], seed=1)
    found = check_detect(tmp_path, head, SIZES, anchors=grid(head).boxes())
    assert (found.counts > 0).all()


def test_equal_scores_come_in_the_ops_order(tmp_path: Path) -> None:
    """Few different logits, and some so high that different ones have the score 1."""
    head = [level.round() for level in levels(2, [(8, 12), (4, 3)], scale=12.0, seed=2)]
    found = check_detect(tmp_path, head, SIZES, topk_candidates=90, detections_per_img=60)
    assert (found.scores == 1).sum() > 20
    assert all(len(row.unique()) < 30 for row in found.scores)


def test_a_nan_logit_is_no_candidate(tmp_path: Path) -> None:
    head = levels(2, [(8, 12), (4, 3)], seed=3)
    head[0][0, ::2] = math.nan
    head[1][1] = math.nan
    assert not check_detect(tmp_path, head, SIZES).scores.isnan().any()


def test_half_precision_heads(tmp_path: Path) -> None:
    check_detect(tmp_path, [level.half() for level in levels(2, [(8, 12), (4, 3)], seed=4)], SIZES)


def test_one_file_for_any_batch_and_size(tmp_path: Path) -> None:
    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return detect(list(tensors[:4]), tensors[4], topk_candidates=50, detections_per_img=40)

    dynamic = [{0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO}] * 4 + [{0: Dim.AUTO}]
    run = exported(tmp_path, function, [*levels(2, [(8, 12), (4, 3)]), SIZES], dynamic)
    for batch, shapes in ((1, [(2, 2), (1, 1)]), (3, [(16, 9), (7, 5)])):
        inputs = [
            *levels(batch, shapes, seed=batch),
            torch.tensor([[90 + image, 70] for image in range(batch)]),
        ]
        for ours, theirs in zip(run(inputs), function(*inputs), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"soft_nms": "linear"}, "expected soft_nms None for ONNX, got 'linear'"),
        ({"score_thresh": -0.1}, "expected score_thresh >= 0 for ONNX, got -0.1"),
        ({"nms_thresh": 1.5}, "expected an IoU threshold from 0 to 1 for ONNX, got 1.5"),
    ],
)
def test_what_onnx_cannot_express_is_refused(tmp_path: Path, options: dict[str, Any], error: str) -> None:
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as raised:
        check_detect(tmp_path, levels(2, [(8, 12), (4, 3)]), SIZES, **options)
    causes = [raised.value.__cause__]
    while causes[-1] is not None:
        causes.append(causes[-1].__cause__)
    assert any(error in str(cause) for cause in causes)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.6, 1.0])
def test_nms(tmp_path: Path, threshold: float) -> None:
    boxes = boxes_of(200).round()  # whole pixels: some IoUs are exactly 0.5
    scores = torch.rand(200, generator=torch.Generator().manual_seed(1)).mul(20).round() - 5
    idxs = torch.arange(200) * 7 % 5 - 2

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        boxes, scores, idxs = tensors
        return ops.nms(boxes, scores, threshold), ops.batched_nms(boxes, scores, idxs, threshold)

    inputs = [boxes, scores, idxs]
    assert [
        torch.equal(*pair) for pair in zip(exported(tmp_path, function, inputs)(inputs), function(*inputs))
    ] == [
        True,
        True,
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_box_ops(tmp_path: Path, dtype: torch.dtype) -> None:
    anchors, boxes = boxes_of(30).to(dtype), boxes_of(30, seed=1).to(dtype)
    deltas = torch.randn(30, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    weights = (10.0, 10.0, 5.0, 5.0)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        anchors, boxes, deltas = tensors
        return (
            ops.encode_boxes(boxes, anchors, weights),
            ops.decode_boxes(deltas, anchors, weights),
            ops.decode_boxes(deltas, anchors, weights, image_size=(70, 80)),
            ops.box_iou(anchors, boxes),
        )

    inputs = [anchors, boxes, deltas]
    # ONNX computes in float64 what the ops compute in float32: a few roundings of coordinates up to 120 (1e-5), and
    # then perhaps the next float16 (2^-10).
    rtol, atol = {torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-4), torch.float16: (2**-10, 1e-4)}[
        dtype
    ]
    for ours, theirs in zip(exported(tmp_path, function, inputs)(inputs), function(*inputs), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
