"""Turns images of any size into one normalised batch, and boxes back to the images' own pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet_fast.structures import Detections

__all__ = ["DetectionTransform", "ImageBatch"]

# Of ImageNet's images in 0 to 1, as RGB.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = tuple[int, int]  # (height, width)
Target = dict[str, Tensor]


class ImageBatch(NamedTuple):
    """Images padded to one size, and the size of each before the padding."""

    tensors: Tensor  # [B, C, H, W]
    image_sizes: list[Size]  # B pairs (height, width)


class DetectionTransform(nn.Module):
    """Normalise, resize and pad images, value for value as torchvision's detection models do.

    An image is normalised as ``(image - mean) / std`` and resized (bilinear, without antialiasing, its aspect ratio
    kept) until its shorter side is ``min_size`` or its longer side is ``max_size``, whichever comes first; a side
    is at least 1 pixel. The batch is padded with zeros at the right and the bottom to its largest height and width,
    each rounded up to a multiple of ``size_divisible``. Where ``min_size`` has several values, training draws one
    per image from torch's generator, and evaluation takes the last. ``fixed_size`` (width, height) resizes every
    image to one size instead. The targets' ``boxes`` are scaled with their image; their other entries are passed on
    unchanged.
    """

    def __init__(
        self,
        min_size: int | Sequence[int],
        max_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        size_divisible: int = 32,
        fixed_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size = max_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.size_divisible = size_divisible
        self.fixed_size = fixed_size

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> tuple[ImageBatch, list[Target] | None]:
        """The batch of images ``[C, H, W]``, float in 0 to 1, and their targets; the arguments are not changed."""
        _check_images(images)
        mean, std = (images[0].new_tensor(x)[:, None, None] for x in (self.image_mean, self.image_std))
        resized = [self._resize((image - mean) / std) for image in images]
        if targets is not None:
            targets = [
                {**target, "boxes": _scale_boxes(target["boxes"], image.shape[-2:], new.shape[-2:])}
                for target, image, new in zip(targets, images, resized, strict=True)
            ]
        sizes = [(image.shape[-2], image.shape[-1]) for image in resized]
        return ImageBatch(self._pad(resized), sizes), targets

    def postprocess(
        self, detections: Detections, image_sizes: Sequence[Size], original_sizes: Sequence[Size]
    ) -> Detections:
        """The detections with their boxes in the pixels of the original images."""
        scales = [_scales(old, new) for old, new in zip(image_sizes, original_sizes, strict=True)]
        scale = torch.tensor(scales, dtype=detections.boxes.dtype).to(detections.boxes.device)
        return replace(detections, boxes=detections.boxes * scale[:, None, :])

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}, fixed_size={self.fixed_size}"

    def _resize(self, image: Tensor) -> Tensor:
        size = self._resized_size(image.shape[-2], image.shape[-1])
        return F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]

    def _resized_size(self, height: int, width: int) -> Size:
        if self.fixed_size is not None:
            return self.fixed_size[1], self.fixed_size[0]
        min_size = self.min_size[-1]
        if self.training and len(self.min_size) > 1:
            min_size = self.min_size[int(torch.rand(()) * len(self.min_size))]
        scale = min(min_size / min(height, width), self.max_size / max(height, width))
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    def _pad(self, images: Sequence[Tensor]) -> Tensor:
        height = self._round_up(max(image.shape[-2] for image in images))
        width = self._round_up(max(image.shape[-1] for image in images))
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[-2], : image.shape[-1]] = image
        return batch

    def _round_up(self, length: int) -> int:
        return math.ceil(length / self.size_divisible) * self.size_divisible


def _check_images(images: Sequence[Tensor]) -> None:
    if len(images) == 0:
        raise ValueError("expected at least one image, got none")
    for index, image in enumerate(images):
        if image.dim() != 3:
            raise ValueError(f"expected images [C, H, W], got {list(image.shape)} at index {index}")
        if not image.is_floating_point():
            raise TypeError(
                f"expected float images in 0 to 1, got {image.dtype} at index {index}; "
                "convert with image.float() / 255"
            )


def _scales(old: Sequence[int], new: Sequence[int]) -> tuple[float, float, float, float]:
    y, x = new[0] / old[0], new[1] / old[1]
    return x, y, x, y


def _scale_boxes(boxes: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    columns = zip(boxes.unbind(dim=1), _scales(old, new), strict=True)
    return torch.stack([column * scale for column, scale in columns], dim=1)
