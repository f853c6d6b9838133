"""Augmentation: flips, scale jitter and photometric distortion, of uint8 images and their boxes.

What is drawn for an image depends on the seed, the epoch and the image's id alone: not on the process that loads it,
nor on torch's generator.
"""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.nn.batch_sizes import Size, resized_size

# A box is kept where this fraction of its area is inside the crop; less of an object seldom tells what it is.
LEAST_VISIBLE = 0.1
# Strengths of the photometric distortion: SSD's, as torchvision's RandomPhotometricDistort has them.
BRIGHTNESS = (0.875, 1.125)
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = (-0.05, 0.05)


class Augmented(NamedTuple):
    """An augmented image, its boxes, and the sizes that the model is to give it."""

    image: Tensor  # [3, H, W] uint8
    boxes: Tensor  # [G, 4] float32, xyxy in pixels of the image
    labels: Tensor  # [G] int64
    image_id: int
    resized: Size
    room: (
        Size  # what its batch has room for, at least: larger than `resized` where the image was made smaller
    )


def check_augmentation(recipe: Recipe) -> None:
    """Find a missing library before the first image is loaded.

    Raises:
        InputError: the recipe's photometric distortion needs torchvision, which is not installed.
    """
    if recipe.photometric > 0:
        try:
            import torchvision.transforms.v2  # noqa: F401
        except ImportError:
            raise InputError(
                f"photometric = {recipe.photometric:g} needs torchvision, which is not installed here: "
                "pip install torchvision"
            ) from None


def augment(
    image: Tensor, boxes: Tensor, labels: Tensor, recipe: Recipe, epoch: int, image_id: int
) -> Augmented:
    """Augment an image as the recipe says, and draw the size that it is trained at. The arguments are not changed."""
    draw = random.Random(f"{recipe.seed} {epoch} {image_id}")
    if draw.random() < recipe.hflip:
        image, boxes = flip(image, boxes, horizontal=True)
    if draw.random() < recipe.vflip:
        image, boxes = flip(image, boxes, horizontal=False)
    room = resized_size(image.shape[1], image.shape[2], draw.choice(recipe.min_size), recipe.max_size)
    resized = room
    if recipe.scale_jitter:
        low, high = recipe.scale_jitter
        image, boxes, labels, resized = scale_jitter(
            image, boxes, labels, room, draw.uniform(low, high), draw
        )
    if recipe.photometric > 0:
        image = distort(image, recipe.photometric, draw)
    return Augmented(image, boxes, labels, image_id, resized, room)


def flip(image: Tensor, boxes: Tensor, horizontal: bool) -> tuple[Tensor, Tensor]:
    """Mirror an image [3, H, W] and its xyxy boxes [G, 4]: x becomes W - x, or y becomes H - y."""
    x1, y1, x2, y2 = boxes.unbind(1)
    if horizontal:
        width = image.shape[2]
        return image.flip(2), torch.stack((width - x2, y1, width - x1, y2), dim=1)
    height = image.shape[1]
    return image.flip(1), torch.stack((x1, height - y2, x2, height - y1), dim=1)


def scale_jitter(
    image: Tensor, boxes: Tensor, labels: Tensor, size: Size, factor: float, draw: random.Random
) -> tuple[Tensor, Tensor, Tensor, Size]:
    """Large-scale jittering (Ghiasi et al., 2021): resize to ``factor`` times a size, then crop or pad to the size.

    The model resizes and pads; here the pixels that it needs are cut out, which comes to the same and costs less.
    From 1 on, a window of 1 / factor of the height and the width is cut out at a drawn place, to be resized to the
    size; below 1 the image stays whole, to be resized to less, in a batch with room for the whole size. Boxes are
    clipped to the window, and dropped where less than ``LEAST_VISIBLE`` of their area is left.

    Args:
        image: ``[3, H, W]``.
        boxes: ``[G, 4]`` xyxy in pixels of the image, with ``labels`` ``[G]``.
        size: what the image would be resized to without jitter.

    Returns:
        The image, the boxes and the labels that are left, and what to resize the image to.
    """
    if factor <= 1:
        return image, boxes, labels, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor)))
    full_height, full_width = image.shape[1:]
    height, width = max(1, round(full_height / factor)), max(1, round(full_width / factor))
    top, left = draw.randint(0, full_height - height), draw.randint(0, full_width - width)
    # A copy: a view would take the whole picture along to another process.
    window = image.permute(1, 2, 0)[top : top + height, left : left + width].contiguous().permute(2, 0, 1)
    corners = boxes - boxes.new_tensor([left, top, left, top])
    clipped = torch.stack(
        (
            corners[:, 0].clamp(0, width),
            corners[:, 1].clamp(0, height),
            corners[:, 2].clamp(0, width),
            corners[:, 3].clamp(0, height),
        ),
        dim=1,
    )
    kept = _area(clipped) > LEAST_VISIBLE * _area(boxes)
    return window, clipped[kept], labels[kept], size


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def distort(image: Tensor, probability: float, draw: random.Random) -> Tensor:
    """Photometric distortion (SSD; Liu et al., 2016): brightness, contrast, saturation, hue and the order of the
    channels are each changed with a probability. As torchvision's ``RandomPhotometricDistort``, drawn from ``draw``.

    Args:
        image: ``[3, H, W]`` uint8, RGB.
    """
    from torchvision.transforms.v2 import functional as F

    def chosen() -> bool:
        return draw.random() < probability

    contrast_first = draw.random() < 0.5
    if chosen():
        image = F.adjust_brightness(image, draw.uniform(*BRIGHTNESS))
    contrast = draw.uniform(*CONTRAST) if chosen() else None
    if contrast is not None and contrast_first:
        image = F.adjust_contrast(image, contrast)
    if chosen():
        image = F.adjust_saturation(image, draw.uniform(*SATURATION))
    if chosen():
        image = F.adjust_hue(image, draw.uniform(*HUE))
    if contrast is not None and not contrast_first:
        image = F.adjust_contrast(image, contrast)
    if chosen():
        image = F.permute_channels(image, draw.sample(range(3), 3))
    return image
