"""The feature pyramid on top of a network's C3, C4 and C5 (https://arxiv.org/abs/1612.03144)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["BackboneWithFPN", "FeaturePyramidNetwork", "LastLevelP6P7"]


class LastLevelP6P7(nn.Module):
    """P6 and P7 by convolutions of stride 2: from P5 if ``in_channels`` equals ``out_channels``, otherwise from C5;
    ``use_p5`` says which where C5 has as many channels as P5.

    P7 is computed from P6 after a ReLU, as in the paper. ``relu_before_p7`` is False for weights of mmdetection, which
    has none there.
    """

    def __init__(self, in_channels: int, out_channels: int, use_p5: bool | None = None) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        self.relu_before_p7 = True
        self.use_p5 = in_channels == out_channels if use_p5 is None else use_p5
        for conv in (self.p6, self.p7):
            _init(conv)

    def forward(self, p5: Tensor, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(_two_wide(p5 if self.use_p5 else c5))
        return [p6, self.p7(_two_wide(F.relu(p6) if self.relu_before_p7 else p6))]


class FeaturePyramidNetwork(nn.Module):
    """Lateral 1x1 convolutions, a nearest-neighbour top-down path, 3x3 outputs, and P6 and P7 on top."""

    def __init__(self, in_channels: Sequence[int], out_channels: int, extra_blocks: LastLevelP6P7) -> None:
        super().__init__()
        # Sequentials of one module, for torchvision's names (inner_blocks.0.0.weight).
        self.inner_blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(c, out_channels, 1)) for c in in_channels)
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(out_channels, out_channels, 3, padding=1)) for _ in in_channels
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _init(module)
        self.extra_blocks = extra_blocks

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, P5, P6, P7."""
        top_down = self.inner_blocks[-1](features[-1])
        merged = [top_down]
        for inner, feature in zip(self.inner_blocks[-2::-1], features[-2::-1], strict=True):
            lateral = inner(feature)
            top_down = lateral + F.interpolate(top_down, size=lateral.shape[-2:], mode="nearest")
            merged.insert(0, top_down)
        outputs = [layer(level) for layer, level in zip(self.layer_blocks, merged, strict=True)]
        return outputs + self.extra_blocks(outputs[-1], features[-1])


class BackboneWithFPN(nn.Module):
    """A network and its pyramid: images ``[B, 3, H, W]`` to a list of levels ``[B, out_channels, h, w]``.

    ``body`` returns C3, C4 and C5 in a list, a tuple or a dict; :func:`backbone_with_fpn` checks that it does.
    """

    def __init__(self, body: nn.Module, fpn: FeaturePyramidNetwork, out_channels: int) -> None:
        super().__init__()
        self.body = body
        self.fpn = fpn
        self.out_channels = out_channels

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        return self.fpn(list(features.values()) if isinstance(features, Mapping) else features)


def _two_wide(level: Tensor) -> Tensor:
    """A level one cell wide with a column of zeros at its right, which a 3x3 convolution of stride 2 takes for padding.

    In bfloat16 oneDNN (seen in 3.12, with AVX512-BF16) writes only the middle column of such a convolution's weight
    gradient, and leaves what was in memory in the others: the gradient is NaN now and then.
    """
    affected = level.shape[-1] == 1 and level.dtype == torch.bfloat16 and level.device.type == "cpu"
    return F.pad(level, (0, 1)) if affected and torch.is_grad_enabled() else level


def _init(conv: nn.Conv2d) -> None:
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
