"""Box arithmetic: pairwise IoU, and encoding and decoding over a batch's anchors."""

from __future__ import annotations

import torch

from benchmarks.inputs import anchor_grid, nbytes, uniform_boxes
from benchmarks.workload import Case, Setting, register


def box_iou(setting: Setting) -> Case:
    generator = setting.generator()
    rows = uniform_boxes(100, 800, generator).to(setting.device)
    columns = anchor_grid(setting.size(800, 128), setting.device).boxes()
    return Case(
        op="box_iou",
        args=(rows, columns),
        shape=f"{len(rows)} x {len(columns):,}",
        bytes_moved=len(rows) * len(columns) * 4 + nbytes(rows, columns),
    )


def coding(setting: Setting, *, op: str, images: int) -> Case:
    anchors = anchor_grid(setting.size(800, 128), setting.device).boxes().repeat(images, 1)
    noise = torch.randn(anchors.shape, generator=setting.generator()).to(setting.device)
    # To decode: deltas as a trained head gives them. To encode: boxes near their anchors, of positive size.
    first = 0.2 * noise if op == "decode_boxes" else anchors + noise.clamp(-3, 3)
    return Case(
        op=op,
        args=(first, anchors),
        shape=f"{len(anchors):,} x 4",
        bytes_moved=3 * nbytes(anchors),
    )


register("box_iou/100", box_iou)
for op in ("encode_boxes", "decode_boxes"):
    register(f"{op}/1-image", coding, op=op, images=1)
    register(f"{op}/16-images", coding, op=op, images=16)
