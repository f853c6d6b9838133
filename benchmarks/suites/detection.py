"""The detection path: from a batch's level outputs to its detections."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.inputs import anchor_grid, level_outputs, nbytes
from benchmarks.workload import NOT_COMPILED, Case, Setting, register

# How a level's N(-4, 1.5) logits are changed. All but the first are the worst cases of the selection: nothing above
# the threshold; everything above it, close together; all equal; and each better than all before it.
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "half-trained": lambda logits: logits,
    "none": lambda logits: logits - 20,
    "untrained": lambda logits: (logits + 4) / 15,
    "equal": torch.ones_like,
    "rising": lambda logits: torch.linspace(-2, 8, logits.numel()).view_as(logits),
}


def retinanet_detect(
    setting: Setting,
    *,
    images: int,
    image_size: int,
    classes: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
    scores: str = "half-trained",
) -> Case:
    """Logits as the `scores` say; "half-trained" is N(-4, 1.5), of which one in 23 is above the score threshold."""
    size, generator = setting.size(image_size, 128), setting.generator()
    images, classes = setting.images(images), setting.size(classes, 10)
    anchors = anchor_grid(size, setting.device)
    shapes = anchors.base_anchors.shape[1]
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def head(channels: int, mean: float, std: float, scores: str = "half-trained") -> list[Tensor]:
        levels = [SCORES[scores](x) for x in level_outputs(images, channels, size, mean, std, generator)]
        return [level.to(setting.device, dtype, memory_format=layout) for level in levels]

    logits, deltas = head(shapes * classes, -4.0, 1.5, scores), head(shapes * 4, 0.0, 0.2)
    half = dtype != torch.float32
    return Case(
        op="retinanet_detect",
        args=(logits, deltas, anchors, [(size, size)] * images),
        shape=f"{images} x {size} px, {classes} classes",
        bytes_moved=nbytes(*logits),
        logits_bytes=nbytes(*logits),
        # torch's topk leaves ties undefined. Half-type logits are full of them: only shapes can agree.
        peer_rows=0.0 if half else 0.98,
    )


register(
    "retinanet_detect/2x512",
    retinanet_detect,
    providers=NOT_COMPILED,
    images=2,
    image_size=512,
    classes=91,
)
for scores in ("none", "untrained", "equal", "rising"):
    register(
        f"retinanet_detect/2x512/{scores}",
        retinanet_detect,
        providers=("ours", "eager"),  # of equal scores torchvision keeps others
        images=2,
        image_size=512,
        classes=91,
        scores=scores,
    )
for images in (1, 16):
    for scores in ("half-trained", "untrained", "equal"):
        register(
            f"retinanet_detect/{images}x800/bf16/channels_last"
            + ("" if scores == "half-trained" else f"/{scores}"),
            retinanet_detect,
            providers=NOT_COMPILED if images == 16 and scores == "half-trained" else ("ours",),
            devices=("cuda",),
            images=images,
            image_size=800,
            classes=80,
            dtype=torch.bfloat16,
            channels_last=True,
            scores=scores,
        )
