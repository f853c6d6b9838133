"""Resizing, normalising and padding a batch in a number of launches that does not depend on its images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast.nn.packed_images import PackedImages

__all__ = ["resize_batch"]


class Taps(NamedTuple):
    """Where the bilinear interpolation along one axis reads: two places and their weights, ``[B, L]`` each."""

    first: Tensor  # int64, inside the image
    second: Tensor
    first_weight: Tensor  # float32; both weights are 0 beyond the resized image
    second_weight: Tensor


def resize_batch(images: PackedImages, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What ``DetectionTransform`` makes of the images ``pixels / 255``: normalised, resized, padded with zeros.

    With s = (old size / new size) (i + 1/2) - 1/2, not below 0, pixel i is read between floor(s) and floor(s) + 1,
    neither past the image's own last one: ``F.interpolate(mode="bilinear", align_corners=False)``. Here it is done
    axis by axis, the rows first, and the normalisation is folded into the weights of the rows. Neither a shape nor
    the number of launches depends on the sizes of single images, no value is read on the host, and nothing is
    copied from it, so a CUDA graph may hold it.

    Returns:
        ``[B, 3, *padded]`` float32, in the memory format of the pixels. Equal to the transform's result but for
        rounding, about 1e-6; where a processor without fused multiply-add rounds s otherwise, 1e-4 of the step
        between two neighbouring pixels.
    """
    pixels = images.pixels
    batch, channels, height, width = pixels.shape
    rows, columns = images.batch_sizes.padded
    y, x = _taps(images.sizes, images.resized, rows, columns)

    scale = _constants([1 / (255 * value) for value in std], pixels.device)
    shift = _constants([-m / s for m, s in zip(mean, std, strict=True)], pixels.device)
    start = torch.arange(batch, device=pixels.device)[:, None] * height
    lines = pixels.permute(0, 2, 3, 1).reshape(batch * height, width * channels)
    above, below = (
        lines.index_select(0, (start + line).flatten()).view(batch, rows, width, channels)
        for line in (y.first, y.second)
    )
    above_weight, below_weight = y.first_weight[..., None, None], y.second_weight[..., None, None]
    # Where both weights are 0, so is the shift.
    between = torch.addcmul(shift * (above_weight + below_weight), above, above_weight * scale)
    between.addcmul_(below, below_weight * scale)

    left, right = (
        between.gather(2, column[:, None, :, None].expand(batch, rows, columns, channels))
        for column in (x.first, x.second)
    )
    left.mul_(x.first_weight[:, None, :, None]).addcmul_(right, x.second_weight[:, None, :, None])
    resized = left.permute(0, 3, 1, 2)
    if pixels.is_contiguous(memory_format=torch.channels_last):
        return resized
    return resized.contiguous()


def _taps(old: Tensor, new: Tensor, rows: int, columns: int) -> tuple[Taps, Taps]:
    """Of both axes at once, from the images' sizes ``[B, 2]``."""
    place = torch.arange(max(rows, columns), device=old.device)
    last = (old - 1)[..., None]
    scale = (old.float() / new.float())[..., None]
    # In one rounding, as a processor's and a GPU's fused multiply-add do it in F.interpolate.
    source = (scale.double() * (place + 0.5) - 0.5).float().clamp(min=0)
    first = source.long().minimum(last)
    second = (first + 1).minimum(last)
    inside = (place < new[..., None]).float()
    fraction = (source - first).clamp(max=1) * inside
    parts = (first, second, inside - fraction, fraction)
    y, x = (Taps(*(part[:, axis, :length] for part in parts)) for axis, length in enumerate((rows, columns)))
    return y, x


def _constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Filled on the device: a copy from the host would wait, and could not be part of a CUDA graph."""
    return torch.stack([torch.full((), value, device=device) for value in values])
