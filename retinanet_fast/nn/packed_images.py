"""The raw images of a batch in one tensor, which travels to a GPU in one copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retinanet_fast.nn.batch_sizes import BatchSizes, Size
from retinanet_fast.structures import size_tensor

__all__ = ["PackedImages", "pack_images"]


@dataclass(frozen=True, eq=False)
class PackedImages:
    """Images as they were read, padded at the right and at the bottom to one size, and what they are resized to.

    A model takes them in the place of a list of float images; ``len()`` is B. What is in the padding is never read.
    """

    pixels: Tensor  # [B, 3, H, W] uint8, RGB; the resized batch has its memory format
    sizes: Tensor  # [B, 2] int64: (height, width) of each image without the padding
    resized: Tensor  # [B, 2] int64: of each image after the resizing
    batch_sizes: BatchSizes  # the same, known to the host, and the size that the resized images are padded to

    def __len__(self) -> int:
        return self.pixels.shape[0]

    def to(self, device: torch.device | str) -> PackedImages:
        """The same on a device; from pinned memory the copies do not wait."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PackedImages:
        """The same in page-locked memory."""
        return self.each(lambda tensor: tensor.pin_memory())

    def with_sizes(self, sizes: BatchSizes) -> PackedImages:
        """The same images, on the host, to be resized to other sizes."""
        return replace(self, resized=size_tensor(sizes.resized, self.pixels.device), batch_sizes=sizes)

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """All that is on the device."""
        return self.pixels, self.sizes, self.resized

    def each(self, change: Callable[[Tensor], Tensor]) -> PackedImages:
        """The same with each tensor changed."""
        return replace(
            self, pixels=change(self.pixels), sizes=change(self.sizes), resized=change(self.resized)
        )


def pack_images(images: Sequence[Tensor], sizes: BatchSizes, room: Size | None = None) -> PackedImages:
    """One tensor of a batch's images, on the host.

    Args:
        images: uint8 ``[3, H, W]`` each, RGB.
        sizes: what ``DetectionTransform.batch_sizes(images)`` gives.
        room: (height, width) of the tensor, at least the images'; by default the largest height and width.

    Raises:
        TypeError, ValueError: no images, other dtypes or shapes, as many sizes as images, or too little room.
    """
    if not images or len(images) != len(sizes.resized):
        raise ValueError(
            f"pack_images: expected as many images as sizes, and one at least, got {len(images)} and "
            f"{len(sizes.resized)}"
        )
    for index, image in enumerate(images):
        if image.dtype != torch.uint8:
            raise TypeError(f"pack_images: expected uint8 images, got {image.dtype} at index {index}")
        if image.dim() != 3 or image.shape[0] != 3:
            raise ValueError(
                f"pack_images: expected images [3, H, W], got {list(image.shape)} at index {index}"
            )
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if room is None:
        room = height, width
    if room[0] < height or room[1] < width:
        raise ValueError(
            f"pack_images: expected images of at most {room[0]}x{room[1]} (room), got {height}x{width}"
        )
    pixels = torch.zeros(len(images), *room, 3, dtype=torch.uint8, device="cpu").permute(0, 3, 1, 2)
    for row, image in zip(pixels, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image
    own = size_tensor([(image.shape[1], image.shape[2]) for image in images], pixels.device)
    return PackedImages(pixels, own, size_tensor(sizes.resized, pixels.device), sizes)
