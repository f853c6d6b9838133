"""RetinaNet's two subnets, applied to each level with shared weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

__all__ = ["RetinaNetClassificationHead", "RetinaNetHead", "RetinaNetRegressionHead"]

Norm = Callable[[int], nn.Module]


class RetinaNetHead(nn.Module):
    """Four 3x3 convolutions and an output convolution, once for the classes and once for the boxes.

    The outputs are lists with one tensor per level, as ``retinanet_loss`` and ``retinanet_detect`` read them:
    ``cls_logits[l]`` ``[B, K * num_classes, H, W]`` and ``bbox_regression[l]`` ``[B, K * 4, H, W]``.
    ``norm_layer``, a function of the number of channels, makes the normalisation after each hidden convolution.

    Either half may be replaced, as torchvision's fine-tuning scripts do, by one of this module or by torchvision's own
    (whose output, ``[B, A, C]`` over all levels, the ``RetinaNet`` takes apart into levels without a copy).
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, norm_layer: Norm | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification_head = RetinaNetClassificationHead(
            in_channels, num_anchors, num_classes, norm_layer=norm_layer
        )
        self.regression_head = RetinaNetRegressionHead(in_channels, num_anchors, norm_layer=norm_layer)

    def forward(self, features: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        return {
            "cls_logits": self.classification_head(features),
            "bbox_regression": self.regression_head(features),
        }


class RetinaNetClassificationHead(nn.Module):
    """The classification half, with the constructor, attributes and state dict of torchvision's.

    Levels ``[B, in_channels, H, W]`` to ``[B, num_anchors * num_classes, H, W]``, as a list: torchvision's returns one
    tensor ``[B, A, num_classes]`` instead. Channel ``k * num_classes + c`` is class ``c`` of anchor ``k``.

    Args:
        num_anchors: K, the anchors of a cell.
        num_classes: counting the background, which is class 0.
        prior_probability: the score that every class of every anchor starts at.
        norm_layer: see ``RetinaNetHead``.
    """

    def __init__(
        self,
        in_channels: int,
        num_anchors: int,
        num_classes: int,
        prior_probability: float = 0.01,
        norm_layer: Norm | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_anchors = num_anchors
        self.conv = _tower(in_channels, norm_layer)
        # Otherwise the many background anchors would dominate the first steps.
        bias = -math.log((1 - prior_probability) / prior_probability)
        self.cls_logits = _conv(in_channels, num_anchors * num_classes, bias=bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.cls_logits(self.conv(feature)) for feature in features]


class RetinaNetRegressionHead(nn.Module):
    """The box half, with the constructor and state dict of torchvision's.

    Levels ``[B, in_channels, H, W]`` to ``[B, num_anchors * 4, H, W]``, as a list: torchvision's returns one tensor
    ``[B, A, 4]`` instead. Channel ``k * 4 + j`` is number ``j`` of ``(dx, dy, dw, dh)`` of anchor ``k``.
    """

    def __init__(self, in_channels: int, num_anchors: int, norm_layer: Norm | None = None) -> None:
        super().__init__()
        self.num_anchors = num_anchors
        self.conv = _tower(in_channels, norm_layer)
        self.bbox_reg = _conv(in_channels, num_anchors * 4, bias=0.0)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [self.bbox_reg(self.conv(feature)) for feature in features]


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
