"""Our pyramid on any network that returns C3, C4 and C5: timm's, torchvision's, or one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from retinanet_fast.models.fpn import BackboneWithFPN, FeaturePyramidNetwork, LastLevelP6P7

__all__ = ["backbone_with_fpn"]

STRIDES = (8, 16, 32)
PROBE = 64  # pixels of the image that shows what a network returns


def backbone_with_fpn(
    body: nn.Module,
    in_channels: Sequence[int] | None = None,
    out_channels: int = 256,
    *,
    p6_from_c5: bool = False,
) -> BackboneWithFPN:
    """A RetinaNet's backbone: ``body`` with a feature pyramid, P6 and P7 on top (https://arxiv.org/abs/1612.03144).

    ::

        body = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4))
        model = RetinaNet(backbone_with_fpn(body), num_classes=21)

        body = torchvision.models.feature_extraction.create_feature_extractor(
            torchvision.models.regnet_y_400mf(),
            {"trunk_output.block2": "c3", "trunk_output.block3": "c4", "trunk_output.block4": "c5"},
        )

    ``body`` is called once with a small image, without gradients and in evaluation mode, to see that it fits.

    Args:
        body: turns images ``[B, 3, H, W]`` into C3, C4 and C5, of strides 8, 16 and 32, as a list, a tuple or a dict in
            this order.
        in_channels: the channels of C3, C4 and C5. None: those that ``body`` returns.
        out_channels: channels of every level.
        p6_from_c5: compute P6 from C5, as the paper, detectron2, mmdetection and torchvision's v2 do, not from P5.

    Raises:
        ValueError: other levels than these, other channels, or a body that cannot take a small image.
    """
    found = _channels(body)
    if in_channels is not None and list(in_channels) != found:
        raise ValueError(
            f"backbone_with_fpn: expected the body to return {list(in_channels)} channels, got {found}"
        )
    top = LastLevelP6P7(found[-1] if p6_from_c5 else out_channels, out_channels, use_p5=not p6_from_c5)
    return BackboneWithFPN(body, FeaturePyramidNetwork(found, out_channels, top), out_channels)


def _channels(body: nn.Module) -> list[int]:
    """The channels of the levels that a body returns for a small image; checks their number and strides."""
    levels = _probe(body)
    if len(levels) != len(STRIDES):
        raise ValueError(
            f"backbone_with_fpn: expected C3, C4 and C5, got {len(levels)} levels; for a timm model give "
            "features_only=True and out_indices, such as (2, 3, 4)"
        )
    for name, level, stride in zip(("C3", "C4", "C5"), levels, STRIDES, strict=True):
        cells = PROBE // stride
        if level.dim() != 4 or level.shape[2:] != (cells, cells):
            raise ValueError(
                f"backbone_with_fpn: expected {name} [B, C, {cells}, {cells}] for an image of {PROBE} pixels, stride "
                f"{stride}, got {list(level.shape)}"
            )
    return [level.shape[1] for level in levels]


def _probe(body: nn.Module) -> list[Tensor]:
    like = next(chain(body.parameters(), body.buffers()), torch.empty(0))
    modes = [(module, module.training) for module in body.modules()]
    try:
        with torch.no_grad():
            features = body.eval()(like.new_zeros(1, 3, PROBE, PROBE))
    except (RuntimeError, ValueError, AssertionError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"backbone_with_fpn: the body cannot take an image of {PROBE} pixels: {reason}"
        ) from None
    finally:
        for module, mode in modes:
            module.training = mode
    values = list(features.values()) if isinstance(features, Mapping) else features
    if not isinstance(values, (list, tuple)) or not all(isinstance(level, Tensor) for level in values):
        raise ValueError(
            "backbone_with_fpn: expected the body to return a list or a dict of levels, got a "
            f"{type(features).__name__}"
        )
    return list(values)
