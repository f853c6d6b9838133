"""Turns images of any size into one normalised batch, and boxes back to the images' own pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet_fast.structures import Detections, size_tensor

__all__ = ["DetectionTransform", "ImageBatch"]

# Of ImageNet's images in 0 to 1, as RGB.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Size = tuple[int, int]  # (height, width)
Sizes = Sequence[Size] | Tensor  # B pairs, or [B, 2] int64
Target = dict[str, Tensor]


class ImageBatch(NamedTuple):
    """Images padded to one size, and the size of each before the padding."""

    tensors: Tensor  # [B, C, H, W]
    image_sizes: Sizes  # those of one tensor [B, C, h, w] are a tensor


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
        self, images: Sequence[Tensor] | Tensor, targets: Sequence[Target] | None = None
    ) -> tuple[ImageBatch, list[Target] | None]:
        """The batch of the images and their targets; the arguments are not changed.

        Args:
            images: ``[C, H, W]`` each, or ``[B, C, H, W]``; float in 0 to 1.
            targets: one dict per image.
        """
        _check_images(images)
        # What is resized at once: an image, or all that are one tensor.
        parts = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        mean, std = (parts[0].new_tensor(x)[:, None, None] for x in (self.image_mean, self.image_std))
        resized = [self._resize((part - mean) / std) for part in parts]
        if targets is not None:
            each = resized * len(targets) if isinstance(images, Tensor) else resized
            targets = [
                {**target, "boxes": _scale_boxes(target["boxes"], image.shape[-2:], new.shape[-2:])}
                for target, image, new in zip(targets, images, each, strict=True)
            ]
        sizes = sizes_of(resized[0] if isinstance(images, Tensor) else resized)
        return ImageBatch(self._pad(resized), sizes), targets

    def postprocess(self, detections: Detections, image_sizes: Sizes, original_sizes: Sizes) -> Detections:
        """The detections with their boxes in the pixels of the original images."""
        boxes = detections.boxes
        old, new = (
            sizes if isinstance(sizes, Tensor) else size_tensor(sizes, boxes.device)
            for sizes in (image_sizes, original_sizes)
        )
        scale = (new.double() / old.double()).to(boxes.dtype).flip(1).repeat(1, 2)  # x, y, x, y
        return replace(detections, boxes=boxes * scale[:, None, :].to(boxes.device))

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}, fixed_size={self.fixed_size}"

    def _resize(self, images: Tensor) -> Tensor:
        size = self._resized_size(images.shape[-2], images.shape[-1])
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False)

    def _resized_size(self, height: int, width: int) -> Size:
        if self.fixed_size is not None:
            return self.fixed_size[1], self.fixed_size[0]
        min_size = self.min_size[-1]
        if self.training and len(self.min_size) > 1:
            min_size = self.min_size[int(torch.rand((), device="cpu") * len(self.min_size))]
        # sym_min and sym_max: in a traced program, min() and max() of sizes would tie it to which of them is larger.
        shorter, longer = torch.sym_min(height, width), torch.sym_max(height, width)
        scale = torch.sym_min(min_size / shorter, self.max_size / longer)
        return (
            torch.sym_max(1, torch.sym_int(height * scale)),
            torch.sym_max(1, torch.sym_int(width * scale)),
        )

    def _pad(self, parts: Sequence[Tensor]) -> Tensor:
        height = self._round_up(reduce(torch.sym_max, [part.shape[-2] for part in parts]))
        width = self._round_up(reduce(torch.sym_max, [part.shape[-1] for part in parts]))
        if len(parts) == 1:
            return F.pad(parts[0], (0, width - parts[0].shape[-1], 0, height - parts[0].shape[-2]))
        batch = parts[0].new_zeros(len(parts), parts[0].shape[1], height, width)
        for padded, part in zip(batch, parts, strict=True):
            padded[:, : part.shape[-2], : part.shape[-1]] = part[0]
        return batch

    def _round_up(self, length: int) -> int:
        return (length + self.size_divisible - 1) // self.size_divisible * self.size_divisible


def sizes_of(images: Sequence[Tensor] | Tensor) -> Sizes:
    """(height, width) of each image."""
    if isinstance(images, Tensor):
        return size_tensor([(images.shape[-2], images.shape[-1])], images.device).expand(images.shape[0], 2)
    return [(image.shape[-2], image.shape[-1]) for image in images]


def _check_images(images: Sequence[Tensor] | Tensor) -> None:
    # Of a tensor not len(), which makes the batch of a traced program a constant.
    if (images.shape[0] if isinstance(images, Tensor) and images.dim() > 0 else len(images)) == 0:
        raise ValueError("expected at least one image, got none")
    for index, image in enumerate([images[0]] if isinstance(images, Tensor) else images):
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
