"""Non-maximum suppression, with and without classes."""

from __future__ import annotations

import torch

from benchmarks.inputs import clustered_boxes, nbytes, uniform_boxes
from benchmarks.workload import NOT_COMPILED, Case, Setting, register

EXTENT = 1000.0


def nms(setting: Setting, *, boxes: int, objects: int = 0, checked: bool = True) -> Case:
    generator = setting.generator()
    count = setting.size(boxes, boxes // 100)
    drawn = (
        clustered_boxes(count, objects, EXTENT, generator)
        if objects
        else uniform_boxes(count, EXTENT, generator)
    ).to(setting.device)
    scores = torch.rand(count, generator=generator).to(setting.device)
    return Case(
        op="nms",
        args=(drawn, scores, 0.5),
        shape=f"{count:,} boxes" + (f" on {objects} objects" if objects else ""),
        bytes_moved=nbytes(drawn, scores),
        checked=checked,
    )


def batched_nms(setting: Setting, *, boxes: int, classes: int) -> Case:
    generator = setting.generator()
    count = setting.size(boxes, boxes // 100)
    drawn = uniform_boxes(count, EXTENT, generator).to(setting.device)
    scores = torch.rand(count, generator=generator).to(setting.device)
    idxs = torch.randint(classes, (count,), generator=generator).to(setting.device)
    return Case(
        op="batched_nms",
        args=(drawn, scores, idxs, 0.5),
        shape=f"{count:,} boxes, {classes:,} classes",
        bytes_moved=nbytes(drawn, scores, idxs),
        # torchvision moves the classes apart by adding to the coordinates, whose rounding tips pairs at the threshold.
        peer_rows=0.99,
    )


for boxes in (1_000, 5_000, 20_000):
    register(f"nms/uniform/{boxes}", nms, providers=NOT_COMPILED, boxes=boxes)
for boxes in (5_000, 20_000):
    register(f"nms/clustered/{boxes}", nms, providers=NOT_COMPILED, boxes=boxes, objects=50)
# The twin visits every kept box in Python, and torchvision compares every pair: so many boxes take them minutes.
register("nms/uniform/200000", nms, providers=("ours",), boxes=200_000, checked=False)
register("nms/clustered/1000", nms, providers=("ours",), boxes=1_000, objects=50)
register("nms/clustered/200000", nms, providers=("ours",), boxes=200_000, objects=50, checked=False)
for boxes in (5_000, 20_000):
    register(f"batched_nms/80/{boxes}", batched_nms, providers=NOT_COMPILED, boxes=boxes, classes=80)
register("batched_nms/1203/20000", batched_nms, providers=NOT_COMPILED, boxes=20_000, classes=1_203)
