"""The images that weights were trained on, folded into the first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast.nn.transform import IMAGENET_MEAN, IMAGENET_STD

__all__ = ["CAFFE", "TORCHVISION", "Preprocessing", "fold", "notes_on_mean"]

FIRST_CONV = ("backbone.body.conv1.weight", "conv1.weight")
# Means of ImageNet are written with 2 to 5 digits.
MEAN_TOLERANCE = 0.1


class Preprocessing(NamedTuple):
    """How images of 0 to 255 were normalised before the network: ``(image - mean) / std``."""

    bgr: bool
    mean: tuple[float, ...]  # in the order of the channels that the network saw
    std: tuple[float, ...]


TORCHVISION = Preprocessing(
    False, tuple(255 * mean for mean in IMAGENET_MEAN), tuple(255 * std for std in IMAGENET_STD)
)
# The ResNets of the MSRA's Caffe models, which detectron2 starts from.
CAFFE = Preprocessing(True, TORCHVISION.mean[::-1], (1.0, 1.0, 1.0))


def fold(state: dict[str, Tensor], trained: Preprocessing) -> dict[str, Tensor]:
    """The same network for RGB images that are normalised with ImageNet's mean and standard deviation.

    The first convolution has no bias, and its padding is 0 on both sides, which is the mean: another standard
    deviation is a factor of each input channel, another order of the channels is their order.
    """
    state = dict(state)
    for name in FIRST_CONV:
        if name in state:
            std = torch.tensor(trained.std[::-1] if trained.bgr else trained.std)
            weight = state[name].flip(1) if trained.bgr else state[name]
            factor = torch.tensor(TORCHVISION.std) / std
            # Factors of 1 up to the digits that a std is written with would only round the weights.
            if not torch.allclose(factor, torch.ones(3), rtol=1e-4):
                weight = weight * factor.to(weight.dtype)[:, None, None]
            state[name] = weight
    return state


def notes_on_mean(trained: Preprocessing) -> list[str]:
    """What is left to do where images were not centred at ImageNet's mean, which ``fold`` takes for given."""
    mean: Sequence[float] = trained.mean[::-1] if trained.bgr else trained.mean
    if all(abs(a - b) < MEAN_TOLERANCE for a, b in zip(mean, TORCHVISION.mean, strict=True)):
        return []
    return [f"trained with image_mean={[round(m / 255, 4) for m in mean]}: give it to RetinaNet"]
