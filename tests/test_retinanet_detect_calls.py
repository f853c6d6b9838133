"""`retinanet_detect` as an op: bad input, tracing, export, and CUDA graphs."""

from typing import Any

import pytest
import torch
from cases import DEVICES
from detect_cases import assert_same, random_head
from torch import Tensor

from retinanet_fast import ops, reference
from retinanet_fast.ops.match_anchors import grid_arguments
from retinanet_fast.structures import AnchorGrid, Detections


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cls_logits": []}, ValueError, "expected one or more levels of cls_logits .*, got 0 and 1"),
        (
            {"cls_logits": [torch.zeros(2, 15, 2, 2)], "bbox_regression": [torch.zeros(2, 12, 2, 2)]},
            ValueError,
            "expected an AnchorGrid of 1 levels with 3 anchors per cell and 2 x 2 cells at level 0, got .* 3 x 3",
        ),
        ({"bbox_regression": [torch.zeros(2, 12, 3, 2)]}, ValueError, r"expected cls_logits\[0\] \[2, 3 \* C, 3, 2\]"),
        ({"bbox_regression": [torch.zeros(2, 13, 3, 3)]}, ValueError, r"expected bbox_regression\[0\] .*, got \[2, 13"),
        ({"bbox_regression": [torch.zeros(2, 16, 3, 3)]}, ValueError, r"expected cls_logits\[0\] \[2, 4 \* C, 3, 3\]"),
        ({"bbox_regression": []}, ValueError, "expected one or more levels of cls_logits .*, got 1 and 0"),
        ({"cls_logits": [torch.zeros(2, 15, 3, 3).int()]}, TypeError, "expected cls_logits of float64"),
        ({"anchors": torch.zeros(26, 4)}, ValueError, r"expected anchors \[27, 4\] for these levels, got \[26, 4\]"),
        ({"image_sizes": [(10, 10)]}, ValueError, r"expected image_sizes \[2, 2\], got \[1, 2\]"),
        ({"image_sizes": torch.zeros(2, 2)}, TypeError, "expected image_sizes of an integer dtype, got Float"),
        ({"topk_candidates": 0}, ValueError, "expected topk_candidates >= 1, got 0"),
        ({"detections_per_img": 0}, ValueError, "expected detections_per_img >= 1, got 0"),
        ({"box_weights": (1.0, 1.0)}, ValueError, r"expected 4 box_weights \(x, y, width, height\), got 2"),
        ({"box_weights": (1.0, 0.0, 1.0, 1.0)}, ValueError, "expected box_weights other than 0"),
        ({"soft_nms": "square"}, ValueError, "expected soft_nms None, 'linear' or 'gaussian', got 'square'"),
        ({"soft_nms_sigma": 0.0}, ValueError, "expected soft_nms_sigma > 0, got 0"),
        ({"score_thresh": torch.zeros(4)}, ValueError, r"expected score_thresh, a tensor, \[5\], got \[4\]"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    logits, deltas, grid = random_head([(3, 3)])
    arguments = {
        "cls_logits": logits,
        "bbox_regression": deltas,
        "anchors": grid,
        "image_sizes": [(9, 9)] * 2,
    }
    with pytest.raises(error, match="retinanet_detect: " + message):
        ops.retinanet_detect(**{**arguments, **change})  # type: ignore[arg-type]


def test_opcheck() -> None:
    logits, deltas, grid = random_head()
    sizes = torch.tensor([[60, 50], [33, 64]])
    arguments = (
        logits,
        deltas,
        *grid_arguments(grid),
        sizes,
        0.05,
        None,
        100,
        0.5,
        20,
        [1.0] * 4,
        "",
        0.5,
    )
    torch.library.opcheck(torch.ops.retinanet_fast.retinanet_detect.default, arguments)


def test_compile_and_export() -> None:
    logits, deltas, grid = random_head()
    sizes = torch.tensor([[60, 50], [33, 64]])

    class Detect(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("base_anchors", grid.base_anchors)  # the export of torch 2.6 takes no others
            self.layout = (grid.strides, grid.grid_sizes)

        def forward(self, logits: list[Tensor], deltas: list[Tensor], sizes: Tensor) -> Detections:
            anchors = AnchorGrid(self.base_anchors, *self.layout)
            return ops.retinanet_detect(logits, deltas, anchors, sizes)

    expected = ops.retinanet_detect(logits, deltas, grid, sizes)
    compiled = torch.compile(Detect(), fullgraph=True, backend="aot_eager")
    assert_same(compiled(logits, deltas, sizes), expected)
    exported = torch.export.export(Detect(), (logits, deltas, sizes)).module()
    assert_same(exported(logits, deltas, sizes), expected)
    assert_same(exported(*[[level * 0.5 for level in side] for side in (logits, deltas)], sizes),
                ops.retinanet_detect([x * 0.5 for x in logits], [x * 0.5 for x in deltas], grid, sizes))  # fmt: skip
    listed = torch.compile(lambda *head: ops.retinanet_detect(*head, grid, [(60, 50), (33, 64)]), fullgraph=True,
                           backend="aot_eager")  # fmt: skip
    assert_same(listed(logits, deltas), expected)


@pytest.mark.skipif(DEVICES[-1].marks[0].args[0], reason="no CUDA device, or a build without CUDA kernels")
def test_cuda_graph_without_a_host_synchronisation() -> None:
    logits, deltas, grid = random_head(device="cuda")
    sizes = torch.tensor([[60, 50], [33, 64]], device="cuda")
    ops.retinanet_detect(logits, deltas, grid, sizes)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.retinanet_detect(logits, deltas, grid, sizes)
        ops.retinanet_detect(logits, deltas, grid, [(60, 50), (33, 64)])
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.retinanet_detect(logits, deltas, grid, sizes)
    for seed in (1, 2):
        new_logits, new_deltas, _ = random_head(seed=seed, device="cuda")
        for old, new in zip(logits + deltas, new_logits + new_deltas, strict=True):
            old.copy_(new)
        graph.replay()
        assert_same(captured, reference.retinanet_detect(new_logits, new_deltas, grid, sizes))
