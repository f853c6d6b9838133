"""The training path: matching anchors, and the whole loss from the head's level outputs."""

from __future__ import annotations

import torch

from benchmarks.inputs import anchor_grid, ground_truth, level_outputs, nbytes
from benchmarks.workload import EVERYONE, NOT_COMPILED, Case, Setting, register


def match_anchors(setting: Setting, *, boxes: int) -> Case:
    size = setting.size(800, 128)
    anchors = anchor_grid(size, setting.device)
    truth = [b.to(setting.device) for b in ground_truth(1, boxes, size, setting.generator())]
    return Case(
        op="match_anchors",
        args=(anchors, truth),
        shape=f"{anchors.num_anchors:,} anchors, {boxes:,} boxes",
        bytes_moved=8 * anchors.num_anchors + nbytes(*truth),
    )


def retinanet_loss(
    setting: Setting,
    *,
    images: int,
    image_size: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    boxes: int = 20,
    classes: int = 91,
) -> Case:
    size, generator = setting.size(image_size, 128), setting.generator()
    images = setting.images(images)
    anchors = anchor_grid(size, setting.device)
    shapes = anchors.base_anchors.shape[1]
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def head(channels: int, mean: float, std: float) -> list[torch.Tensor]:
        levels = level_outputs(images, channels, size, mean, std, generator)
        return [level.to(setting.device, dtype, memory_format=layout).requires_grad_() for level in levels]

    logits, deltas = head(shapes * classes, -4.0, 1.0), head(shapes * 4, 0.0, 0.2)
    truth = [b.to(setting.device) for b in ground_truth(images, boxes, size, generator)]
    labels = [torch.randint(1, classes, (boxes,), generator=generator).to(setting.device) for _ in truth]
    return Case(
        op="retinanet_loss",
        args=(logits, deltas, anchors, truth, labels),
        shape=f"{images} x {size} px, {classes} classes, {boxes} boxes per image",
        # Read: the logits. Written: their gradient and that of the deltas, which are read at foreground anchors only.
        bytes_moved=2 * nbytes(*logits) + nbytes(*deltas),
        leaves=[*logits, *deltas],
        logits_bytes=nbytes(*logits),
        tolerance=1e-4 if dtype == torch.float32 else 1e-2,
        peer_tolerance=1e-4 if dtype == torch.float32 else 1e-1,
    )


for boxes in (20, 100, 1_000):
    register(f"match_anchors/{boxes}", match_anchors, providers=NOT_COMPILED, boxes=boxes)
register("retinanet_loss/2x512", retinanet_loss, providers=EVERYONE, images=2, image_size=512)
# Several class counts and layouts: a row of classes, or an image's plane, may begin at any element of a 16-byte vector.
for channels_last in (True, False):
    for classes in (80, 90, 91):
        usual = channels_last and classes == 91
        register(
            f"retinanet_loss/16x800/bf16/{'channels_last' if channels_last else 'nchw'}"
            + ("" if usual else f"/{classes}"),
            retinanet_loss,
            providers=EVERYONE if usual else ("ours",),
            devices=("cuda",),
            images=16,
            image_size=800,
            classes=classes,
            dtype=torch.bfloat16,
            channels_last=channels_last,
        )
