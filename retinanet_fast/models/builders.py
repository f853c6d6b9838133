"""One function a model, with torchvision's keywords."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from retinanet_fast.models.fpn import BackboneWithFPN, FeaturePyramidNetwork, LastLevelP6P7
from retinanet_fast.models.head import RetinaNetHead
from retinanet_fast.models.resnet import ARCHITECTURES, FrozenBatchNorm2d, ResNet
from retinanet_fast.models.retinanet import RetinaNet
from retinanet_fast.models.state import StateSource, load_state
from retinanet_fast.nn import retinanet_anchor_generator

COCO_CLASSES = 91  # COCO's highest category id and the background
FPN_CHANNELS = 256
BODY_LAYERS = 5

_DOC = """RetinaNet on {trunk} with an FPN{version}; the state dict is named as torchvision's.

    Differs from torchvision's builder in one default: nothing is downloaded, ``weights_backbone`` is None
    there too.

    Args:
        weights: of the whole detector, or None for fresh ones: a state dict, the path of one, or a
        torchvision
            weights enum member (the only one that downloads). Rules out ``weights_backbone``.
        progress: show the progress of a download. num_classes: counting the background; by default that of
        ``weights``, else 91. weights_backbone: of the trunk alone, in the same forms; a classifier in it is
        left out. trainable_backbone_layers: 0 to 5 of the trunk's last layers train, by default 3; all of
        them where nothing
            is pretrained.
        min_size, max_size: the image sides to resize to, in pixels.
        **kwargs: see ``RetinaNet``.

    Batch norm is {norm}.
    """


class Builder(Protocol):
    """The signature of every builder."""

    def __call__(
        self,
        *,
        weights: StateSource | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        weights_backbone: StateSource | None = None,
        trainable_backbone_layers: int | None = None,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        **kwargs: Any,
    ) -> RetinaNet: ...


def _builder(trunk: str, v2: bool = False) -> Builder:
    def build(
        *,
        weights: StateSource | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        weights_backbone: StateSource | None = None,
        trainable_backbone_layers: int | None = None,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        **kwargs: Any,
    ) -> RetinaNet:
        state = None if weights is None else load_state(weights, progress)
        pretrained = state is not None or weights_backbone is not None
        body = ResNet(ARCHITECTURES[trunk], FrozenBatchNorm2d if pretrained and not v2 else nn.BatchNorm2d)
        if state is None and weights_backbone is not None:
            _load_body(body, load_state(weights_backbone, progress))
        body.freeze_all_but(_trainable_layers(trainable_backbone_layers, pretrained))

        num_classes = _num_classes(num_classes, state)
        parts = _with_v2_parts if v2 else _with_v1_parts
        model = parts(body, num_classes, min_size=min_size, max_size=max_size, **kwargs)
        if state is not None:
            model.load_state_dict(state)
            if _wants_zero_eps(weights):
                _set_frozen_eps(model, 0.0)
        return model

    build.__name__ = build.__qualname__ = f"retinanet_{trunk}_fpn" + ("_v2" if v2 else "")
    build.__doc__ = _DOC.format(
        trunk=trunk,
        version=", torchvision's v2 (GroupNorm in the head, P6 from C5, GIoU)" if v2 else "",
        norm="trained" if v2 else "trained where nothing is pretrained, and frozen where the trunk is",
    )
    return build


retinanet_resnet18_fpn = _builder("resnet18")
retinanet_resnet34_fpn = _builder("resnet34")
retinanet_resnet50_fpn = _builder("resnet50")
retinanet_resnet101_fpn = _builder("resnet101")
retinanet_resnet152_fpn = _builder("resnet152")
retinanet_resnext50_32x4d_fpn = _builder("resnext50_32x4d")
retinanet_resnext101_32x8d_fpn = _builder("resnext101_32x8d")
retinanet_resnext101_64x4d_fpn = _builder("resnext101_64x4d")
retinanet_resnet50_fpn_v2 = _builder("resnet50", v2=True)


def _with_v1_parts(body: ResNet, num_classes: int, **kwargs: Any) -> RetinaNet:
    return RetinaNet(_with_fpn(body, p6_channels=FPN_CHANNELS), num_classes, **kwargs)


def _with_v2_parts(body: ResNet, num_classes: int, **kwargs: Any) -> RetinaNet:
    anchors = kwargs.pop("anchor_generator", None) or retinanet_anchor_generator()
    head = kwargs.pop("head", None) or RetinaNetHead(
        FPN_CHANNELS, anchors.num_anchors_per_location()[0], num_classes, norm_layer=partial(nn.GroupNorm, 32)
    )
    backbone = _with_fpn(body, p6_channels=body.out_channels[-1])
    return RetinaNet(
        backbone, num_classes, anchor_generator=anchors, head=head, **{"box_loss": "giou", **kwargs}
    )


def _with_fpn(body: ResNet, p6_channels: int) -> BackboneWithFPN:
    fpn = FeaturePyramidNetwork(body.out_channels, FPN_CHANNELS, LastLevelP6P7(p6_channels, FPN_CHANNELS))
    return BackboneWithFPN(body, fpn, FPN_CHANNELS)


def _load_body(body: ResNet, state: dict[str, Tensor]) -> None:
    body.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})


def _trainable_layers(requested: int | None, pretrained: bool) -> int:
    if requested is not None and not 0 <= requested <= BODY_LAYERS:
        raise ValueError(f"expected trainable_backbone_layers in [0, {BODY_LAYERS}], got {requested}")
    if pretrained:
        return 3 if requested is None else requested
    if requested is not None:
        warnings.warn(
            f"trainable_backbone_layers={requested} has no effect where nothing is pretrained: all train",
            stacklevel=3,
        )
    return BODY_LAYERS


def _num_classes(requested: int | None, state: dict[str, Tensor] | None) -> int:
    if state is None:
        return COCO_CLASSES if requested is None else requested
    try:
        num_anchors = state["head.regression_head.bbox_reg.bias"].numel() // 4
        found = state["head.classification_head.cls_logits.bias"].numel() // num_anchors
    except KeyError as error:
        raise ValueError(f"expected the weights of a RetinaNet, found no {error} among them") from None
    if requested not in (None, found):
        raise ValueError(f"expected num_classes={found} for these weights, got {requested}")
    return found


def _wants_zero_eps(weights: StateSource | None) -> bool:
    """Whether these are torchvision's RetinaNet v1 for COCO, trained without an eps in its batch norm."""
    origin = getattr(weights, "url", weights)
    if not isinstance(origin, (str, os.PathLike)):
        return False
    return os.path.basename(origin).startswith("retinanet_resnet50_fpn_coco-")


def _set_frozen_eps(model: nn.Module, eps: float) -> None:
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = eps
