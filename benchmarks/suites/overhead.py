"""One call on a tiny tensor: what Python, the dispatcher and autograd cost."""

from __future__ import annotations

import torch

from benchmarks.inputs import nbytes, uniform_boxes
from benchmarks.workload import NOT_COMPILED, Case, Setting, register


def _boxes(setting: Setting) -> torch.Tensor:
    return uniform_boxes(10, 100.0, setting.generator()).to(setting.device)


def focal(setting: Setting) -> Case:
    logits = torch.randn(10, 4, generator=setting.generator()).to(setting.device).requires_grad_()
    labels = torch.zeros(10, dtype=torch.int64, device=setting.device)
    return Case(
        op="sigmoid_focal_loss",
        args=(logits, labels),
        kwargs={"reduction": "sum"},
        shape="10 x 4",
        bytes_moved=2 * nbytes(logits) + nbytes(labels),
        leaves=[logits],
    )


def on_boxes(setting: Setting, *, op: str) -> Case:
    boxes = _boxes(setting)
    scores = torch.rand(len(boxes), generator=setting.generator(1)).to(setting.device)
    args = {
        "nms": (boxes, scores, 0.5),
        "batched_nms": (boxes, scores, torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device), 0.5),
    }.get(op, (boxes, boxes))
    return Case(op=op, args=args, shape=f"{len(boxes)} boxes", bytes_moved=nbytes(boxes))


register("tiny/focal", focal, providers=NOT_COMPILED)
for op in ("nms", "batched_nms", "box_iou", "encode_boxes", "decode_boxes"):
    register(f"tiny/{op}", on_boxes, providers=NOT_COMPILED, op=op)
