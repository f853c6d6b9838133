"""Seeded inputs that several workloads share."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.structures import AnchorGrid

STRIDES = (8, 16, 32, 64, 128)


def grid_sizes(image_size: int) -> tuple[tuple[int, int], ...]:
    """The five levels of a square image: each level is made from the one before by a stride of 2, which rounds up."""
    return tuple((-(-image_size // stride),) * 2 for stride in STRIDES)


def anchor_grid(image_size: int, device: torch.device) -> AnchorGrid:
    """torchvision's nine anchors per cell: 120,087 anchors at 800 px, 49,104 at 512 px."""
    ratios = torch.tensor([0.5, 1.0, 2.0])
    levels = []
    for size in (32, 64, 128, 256, 512):
        scales = torch.tensor([size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))])
        heights = (ratios.sqrt()[:, None] * scales).flatten()
        widths = (ratios.rsqrt()[:, None] * scales).flatten()
        levels.append(torch.stack([-widths, -heights, widths, heights], dim=1) / 2)
    grids = grid_sizes(image_size)
    strides = tuple((image_size // height, image_size // width) for height, width in grids)
    return AnchorGrid(torch.stack(levels).round().to(device), strides, grids)


def uniform_boxes(count: int, extent: float, generator: torch.Generator) -> Tensor:
    """Boxes all over an image, with sides of 1 to 100 px."""
    corner = torch.rand(count, 2, generator=generator) * extent
    sides = 1 + 99 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)


def clustered_boxes(count: int, objects: int, extent: float, generator: torch.Generator) -> Tensor:
    """What a detector proposes: each box is one of a few objects with its edges moved by some 5% of its size."""
    truth = uniform_boxes(objects, extent, generator)
    chosen = truth[torch.randint(objects, (count,), generator=generator)]
    sides = (chosen[:, 2:] - chosen[:, :2]).repeat(1, 2)
    return chosen + 0.05 * sides * torch.randn(count, 4, generator=generator)


def ground_truth(images: int, boxes: int, image_size: int, generator: torch.Generator) -> list[Tensor]:
    """Objects of every size from 16 px to half of the image."""
    batch = []
    for _ in range(images):
        sides = 16 + torch.rand(boxes, 2, generator=generator) * (image_size / 2 - 16)
        corner = torch.rand(boxes, 2, generator=generator) * (image_size - sides)
        batch.append(torch.cat([corner, corner + sides], dim=1))
    return batch


def level_outputs(
    images: int, channels: int, image_size: int, mean: float, std: float, generator: torch.Generator
) -> list[Tensor]:
    """What a head returns for one batch: one tensor [B, channels, H, W] per level."""
    return [
        torch.randn(images, channels, height, width, generator=generator) * std + mean
        for height, width in grid_sizes(image_size)
    ]


def nbytes(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
