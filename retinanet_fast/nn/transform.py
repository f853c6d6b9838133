"""Turns images of any size into one normalised batch, and boxes back to the images' own pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retinanet_fast.nn.batch_resize import resize_batch
from retinanet_fast.nn.batch_sizes import BatchSizes, Size, Sizes, padded_size, resized_size, sizes_of
from retinanet_fast.nn.packed_images import PackedImages
from retinanet_fast.structures import Detections, size_tensor

__all__ = ["DetectionTransform", "ImageBatch"]

# Of ImageNet's images in 0 to 1, as RGB.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Images = Sequence[Tensor] | Tensor | PackedImages
Target = dict[str, Tensor]
Targets = Sequence[Target] | Mapping[str, Tensor]  # one per image, or padded for all


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

    In a compiled graph no size can be drawn. ``batch_sizes`` draws and computes all of them outside, which also makes
    for much shorter expressions, and so compile times, inside.
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

    def batch_sizes(self, images: Images) -> BatchSizes:
        """The sizes that a call with ``images`` gives them and the batch, with any ``min_size`` drawn."""
        if isinstance(images, PackedImages):
            return images.batch_sizes
        each = [images] if isinstance(images, Tensor) else images
        resized = tuple(self._resized_size(image.shape[-2], image.shape[-1]) for image in each)
        return BatchSizes(resized, padded_size(resized, self.size_divisible))

    def forward(
        self,
        images: Images,
        targets: Targets | None = None,
        sizes: BatchSizes | None = None,
    ) -> tuple[ImageBatch, Targets | None]:
        """The batch of the images and their targets; the arguments are not changed.

        Args:
            images: ``[C, H, W]`` each, or ``[B, C, H, W]``; float in 0 to 1. Or ``PackedImages``, which a GPU resizes
                in a fixed number of launches (see ``resize_batch``), with padded targets.
            targets: one dict per image, or one for all with padded ``boxes`` ``[B, G, 4]`` (see ``pad_targets``).
            sizes: ``batch_sizes(images)``, which is also the default.
        """
        if isinstance(images, PackedImages):
            return self._packed(images, targets, sizes)
        _check_images(images)
        sizes = sizes or self.batch_sizes(images)
        # What is resized at once: an image, or all that are one tensor.
        parts = [images] if isinstance(images, Tensor) else [image[None] for image in images]
        mean, std = (_tensor_like(parts[0], x)[:, None, None] for x in (self.image_mean, self.image_std))
        resized = [
            F.interpolate((part - mean) / std, size=size, mode="bilinear", align_corners=False)
            for part, size in zip(parts, sizes.resized, strict=True)
        ]
        image_sizes = sizes_of(resized[0] if isinstance(images, Tensor) else resized)
        scaled: Targets | None = None
        if isinstance(targets, Mapping):
            scale = _scale_tensor(sizes_of(images), image_sizes, targets["boxes"])
            scaled = {**targets, "boxes": targets["boxes"] * scale}
        elif targets is not None:
            each = list(zip(parts, resized, strict=True)) * (
                len(targets) if isinstance(images, Tensor) else 1
            )
            scaled = [
                {**target, "boxes": _scale_boxes(target["boxes"], old.shape[-2:], new.shape[-2:])}
                for target, (old, new) in zip(targets, each, strict=True)
            ]
        return ImageBatch(_pad(resized, sizes.padded), image_sizes), scaled

    def _packed(
        self, images: PackedImages, targets: Targets | None, sizes: BatchSizes | None
    ) -> tuple[ImageBatch, Targets | None]:
        if sizes is not None and sizes != images.batch_sizes:
            raise ValueError(
                f"expected the sizes of the packed images, {images.batch_sizes}, or none, got {sizes}; "
                "packed.with_sizes(sizes) gives them others"
            )
        if targets is not None and not isinstance(targets, Mapping):
            raise TypeError("expected padded targets with packed images, got a list; see nn.pad_targets")
        batch = ImageBatch(resize_batch(images, self.image_mean, self.image_std), images.resized)
        if targets is None:
            return batch, None
        scale = _scale_tensor(images.sizes, images.resized, targets["boxes"])
        return batch, {**targets, "boxes": targets["boxes"] * scale}

    def postprocess(self, detections: Detections, image_sizes: Sizes, original_sizes: Sizes) -> Detections:
        """The detections with their boxes in the pixels of the original images."""
        scale = _scale_tensor(image_sizes, original_sizes, detections.boxes)
        return replace(detections, boxes=detections.boxes * scale)

    def extra_repr(self) -> str:
        return f"min_size={self.min_size}, max_size={self.max_size}, fixed_size={self.fixed_size}"

    def _resized_size(self, height: int, width: int) -> Size:
        if self.fixed_size is not None:
            return self.fixed_size[1], self.fixed_size[0]
        min_size = self._draw_min_size() if self.training and len(self.min_size) > 1 else self.min_size[-1]
        return resized_size(height, width, min_size, self.max_size)

    def _draw_min_size(self) -> int:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "DetectionTransform: expected sizes, since a compiled graph cannot draw one of several min_size, got "
                "none; draw outside: model(images, targets, sizes=model.transform.batch_sizes(images))"
            )
        return self.min_size[int(torch.rand((), device="cpu") * len(self.min_size))]


def _pad(parts: Sequence[Tensor], size: Size) -> Tensor:
    height, width = size
    if len(parts) == 1 or torch.compiler.is_compiling():
        # Traced, writing into parts of one tensor would tie the program to whether an image fills it.
        padded = [F.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2])) for part in parts]
        return torch.cat(padded) if len(padded) > 1 else padded[0]
    batch = parts[0].new_zeros(len(parts), parts[0].shape[1], height, width)
    for row, part in zip(batch, parts, strict=True):
        row[:, : part.shape[-2], : part.shape[-1]] = part[0]
    return batch


def _tensor_like(image: Tensor, values: Sequence[float]) -> Tensor:
    """The values in the image's dtype, on its device, without waiting for it."""
    if torch.compiler.is_compiling():
        return image.new_tensor(values)
    return torch.tensor(values, dtype=image.dtype, device="cpu").to(image.device, non_blocking=True)


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


def _scale_tensor(old: Sizes, new: Sizes, boxes: Tensor) -> Tensor:
    """The factors of ``boxes`` ``[B, N, 4]``, ``[B, 1, 4]``, rounded as a product with Python's floats rounds them."""
    old, new = (x if isinstance(x, Tensor) else size_tensor(x, boxes.device) for x in (old, new))
    scale = (new.double() / old.double()).to(boxes.dtype)
    return scale.flip(1).repeat(1, 2)[:, None, :].to(boxes.device, non_blocking=True)


def _scale_boxes(boxes: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    columns = zip(boxes.unbind(dim=1), _scales(old, new), strict=True)
    return torch.stack([column * scale for column, scale in columns], dim=1)
