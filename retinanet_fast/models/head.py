"""RetinaNet's two subnets, applied to each level with shared weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["RetinaNetHead"]

Norm = Callable[[int], nn.Module]


class RetinaNetHead(nn.Module):
    """Four 3x3 convolutions and an output convolution, once for the classes and once for the boxes.

    The outputs are lists with one tensor per level, as ``retinanet_loss`` and ``retinanet_detect`` read them:
    ``cls_logits[l]`` ``[B, K * num_classes, H, W]`` and ``bbox_regression[l]`` ``[B, K * 4, H, W]``.
    ``norm_layer``, a function of the number of channels, makes the normalisation after each hidden convolution.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, norm_layer: Norm | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification_head = _ClassificationHead(in_channels, num_anchors, num_classes, norm_layer)
        self.regression_head = _RegressionHead(in_channels, num_anchors, norm_layer)

    def forward(self, features: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        return {
            "cls_logits": [self.classification_head(feature) for feature in features],
            "bbox_regression": [self.regression_head(feature) for feature in features],
        }


class _ClassificationHead(nn.Module):
    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, norm: Norm | None, prior: float = 0.01
    ) -> None:
        super().__init__()
        self.conv = _tower(channels, norm)
        # Every score starts at ``prior``: otherwise the many background anchors would dominate the first steps.
        self.cls_logits = _conv(channels, num_anchors * num_classes, bias=-math.log((1 - prior) / prior))

    def forward(self, x: Tensor) -> Tensor:
        return self.cls_logits(self.conv(x))


class _RegressionHead(nn.Module):
    def __init__(self, channels: int, num_anchors: int, norm: Norm | None) -> None:
        super().__init__()
        self.conv = _tower(channels, norm)
        self.bbox_reg = _conv(channels, num_anchors * 4, bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.bbox_reg(self.conv(x))


def _tower(channels: int, norm: Norm | None) -> nn.Sequential:
    return nn.Sequential(*(_hidden(channels, norm) for _ in range(4)))


def _hidden(channels: int, norm: Norm | None) -> nn.Sequential:
    if norm is None:
        return nn.Sequential(_conv(channels, channels, bias=0.0), nn.ReLU(inplace=True))
    return nn.Sequential(_conv(channels, channels, bias=None), norm(channels), nn.ReLU(inplace=True))


def _conv(inputs: int, outputs: int, bias: float | None) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias is not None)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None and bias is not None:
        nn.init.constant_(conv.bias, bias)
    return conv
