"""What is trained: sizes, the two models with equal weights, and a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.inputs import ground_truth
from retinanet_fast import models

CLASSES = 91  # COCO's, as torchvision counts them


@dataclass(frozen=True)
class Work:
    """A training step's sizes."""

    name: str
    backbone: str  # resnet18 or resnet50
    height: int
    width: int
    images: int
    devices: tuple[str, ...] = ("cpu",)
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    boxes: int = 20  # per image

    @property
    def shape(self) -> str:
        return f"{self.backbone}, {self.images} x {self.width}x{self.height} px, {self.boxes} boxes per image"

    def small(self) -> Work:
        """The same on two tiny images: does it run?"""
        return replace(self, height=64, width=96 if self.width != self.height else 64, images=2, boxes=3)


WORKS = {
    work.name: work
    for work in (
        Work("r18-320x240", "resnet18", 240, 320, 8),
        Work("r50-512", "resnet50", 512, 512, 2),
        Work("r50-800", "resnet50", 800, 800, 16, ("cuda",), ("bfloat16",)),
    )
}


@dataclass(frozen=True)
class Batch:
    """A batch as a data set gives it, on the host."""

    images: list[Tensor]  # uint8 [3, H, W] each
    targets: list[dict[str, Tensor]]

    def to(self, device: torch.device) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Images in 0 to 1 and targets, on the device."""
        images = [image.to(device, non_blocking=True).float().div_(255) for image in self.images]
        targets = [
            {key: value.to(device, non_blocking=True) for key, value in target.items()}
            for target in self.targets
        ]
        return images, targets


def make_batch(work: Work, pinned: bool) -> Batch:
    generator = torch.Generator().manual_seed(0)
    size = (3, work.height, work.width)
    images = [torch.randint(256, size, dtype=torch.uint8, generator=generator) for _ in range(work.images)]
    # Within a square of the shorter side, and so within the image.
    boxes = ground_truth(work.images, work.boxes, min(work.height, work.width), generator)
    labels = [torch.randint(1, CLASSES, (work.boxes,), generator=generator) for _ in boxes]
    targets = [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    if pinned:
        images = [image.pin_memory() for image in images]
        targets = [{key: value.pin_memory() for key, value in target.items()} for target in targets]
    return Batch(images, targets)


def our_model(work: Work) -> nn.Module:
    """From scratch: batch norm and every layer are trained, as torchvision does it."""
    build = {"resnet18": models.retinanet_resnet18_fpn, "resnet50": models.retinanet_resnet50_fpn}
    torch.manual_seed(0)
    model: nn.Module = build[work.backbone](weights=None, weights_backbone=None, **_options(work))
    return model


def torchvisions_model(work: Work) -> nn.Module | None:
    """torchvision's RetinaNet of the same layers; None where torchvision is not installed."""
    try:
        from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
        from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    except ImportError:
        return None
    if work.backbone == "resnet50":
        model: nn.Module = retinanet_resnet50_fpn(weights=None, weights_backbone=None, **_options(work))
        return model
    # As retinanet_resnet50_fpn makes its own.
    backbone = resnet_fpn_backbone(
        backbone_name=work.backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(backbone, **_options(work))


def _options(work: Work) -> dict[str, Any]:
    return {
        "num_classes": CLASSES,
        "min_size": min(work.height, work.width),
        "max_size": max(work.height, work.width),
    }
