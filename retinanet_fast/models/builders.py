"""One function per model, with torchvision's keywords."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from torch import nn

from retinanet_fast.models.fpn import BackboneWithFPN, FeaturePyramidNetwork, LastLevelP6P7
from retinanet_fast.models.head import RetinaNetHead
from retinanet_fast.models.resnet import ARCHITECTURES, FrozenBatchNorm2d, ResNet
from retinanet_fast.models.retinanet import RetinaNet
from retinanet_fast.models.weights import Weights, WeightsSource, load_weights, read_weights
from retinanet_fast.nn import retinanet_anchor_generator

COCO_CLASSES = 91  # COCO's highest category id and the background
FPN_CHANNELS = 256
BODY_LAYERS = 5

_DOC = """RetinaNet on {backbone} with an FPN{version}; the names of its state dict are torchvision's.

    Nothing is downloaded unless ``weights`` or ``weights_backbone`` asks for weights that torchvision publishes. (By
    default torchvision's builder downloads the backbone's weights; here ``weights_backbone`` is None.)

    Args:
        weights: the weights of the whole detector: a state dict, the path of a file that holds one (torchvision's,
            detectron2's or mmdetection's; see ``retinanet_fast.load_weights``), or torchvision's published ones:
            a member of its weights enum, or the member's name, such as ``"DEFAULT"``, ``"COCO_V1"`` or
            ``"RetinaNet_ResNet50_FPN_Weights.COCO_V1"``. With them ``weights_backbone`` is not read. None: fresh ones.
        progress: show the progress of a download.
        num_classes: counting the background. By default that of ``weights``, or 91. Weights of detectron2 and
            mmdetection have no background: it is added, unless ``num_classes`` is their number.
        weights_backbone: the weights of the ResNet alone, in the same forms, such as ``"IMAGENET1K_V1"``. A classifier
            in them is left out.
        trainable_backbone_layers: how many of the ResNet's last layers are trained, 0 to 5. By default 3, or all 5
            where nothing is pretrained.
        min_size, max_size: shorter and longer side that images are resized to, in pixels.
        **kwargs: see ``RetinaNet``. With weights of detectron2 or mmdetection the anchors are theirs by default.

    P6 comes from {p6}.
    Batch norm is {norm}.
    """


class Builder(Protocol):
    """The signature of every builder."""

    def __call__(
        self,
        weights: WeightsSource | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        weights_backbone: WeightsSource | None = None,
        trainable_backbone_layers: int | None = None,
        *,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        **kwargs: Any,
    ) -> RetinaNet: ...


def _builder(backbone: str, v2: bool = False) -> Builder:
    def build(
        weights: WeightsSource | None = None,
        progress: bool = True,
        num_classes: int | None = None,
        weights_backbone: WeightsSource | None = None,
        trainable_backbone_layers: int | None = None,
        *,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        **kwargs: Any,
    ) -> RetinaNet:
        _refuse_old_keywords(weights, kwargs)
        given = None if weights is None else read_weights(weights, progress, model=name)
        pretrained = given is not None or weights_backbone is not None
        body = ResNet(ARCHITECTURES[backbone], FrozenBatchNorm2d if pretrained and not v2 else nn.BatchNorm2d)
        if given is None and weights_backbone is not None:
            _load_body(body, read_weights(weights_backbone, progress, model=backbone))
        body.freeze_all_but(_trainable_layers(trainable_backbone_layers, pretrained))

        num_classes = _num_classes(num_classes, given)
        if given is not None and given.exact_anchors and kwargs.get("anchor_generator") is None:
            kwargs["anchor_generator"] = retinanet_anchor_generator(exact=True)
        p6_channels = body.out_channels[-1] if v2 else _p6_channels(given)
        parts = _with_v2_parts if v2 else RetinaNet
        pyramid = _with_fpn(body, p6_channels)
        model = parts(pyramid, num_classes, min_size=min_size, max_size=max_size, **kwargs)
        if given is not None:
            load_weights(model, given)
        return model

    name = f"retinanet_{backbone}_fpn" + ("_v2" if v2 else "")
    build.__name__ = build.__qualname__ = name
    build.__doc__ = _DOC.format(
        backbone=backbone,
        version=", torchvision's v2 (GroupNorm in the head, P6 from C5, GIoU)" if v2 else "",
        p6="C5" if v2 else "P5, or from C5 if that of ``weights`` does (detectron2's, mmdetection's)",
        norm="trained" if v2 else "frozen where the backbone is pretrained, and trained otherwise",
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


def _with_v2_parts(backbone: BackboneWithFPN, num_classes: int, **kwargs: Any) -> RetinaNet:
    anchors = kwargs.pop("anchor_generator", None) or retinanet_anchor_generator()
    head = kwargs.pop("head", None) or RetinaNetHead(
        FPN_CHANNELS, anchors.num_anchors_per_location()[0], num_classes, norm_layer=partial(nn.GroupNorm, 32)
    )
    return RetinaNet(
        backbone, num_classes, anchor_generator=anchors, head=head, **{"box_loss": "giou", **kwargs}
    )


def _with_fpn(body: ResNet, p6_channels: int) -> BackboneWithFPN:
    fpn = FeaturePyramidNetwork(body.out_channels, FPN_CHANNELS, LastLevelP6P7(p6_channels, FPN_CHANNELS))
    return BackboneWithFPN(body, fpn, FPN_CHANNELS)


def _p6_channels(weights: Weights | None) -> int:
    """Those of P5, or of C5 where the weights' P6 is computed from it."""
    p6 = None if weights is None else weights.state.get("backbone.fpn.extra_blocks.p6.weight")
    return FPN_CHANNELS if p6 is None else p6.shape[1]


def _refuse_old_keywords(weights: object, kwargs: dict[str, Any]) -> None:
    for old, new, value in (
        ("pretrained", "weights", "COCO_V1"),
        ("pretrained_backbone", "weights_backbone", "IMAGENET1K_V1"),
    ):
        if old in kwargs or (old == "pretrained" and isinstance(weights, bool)):
            raise TypeError(
                f'{old}: torchvision removed it; write {new}="{value}" for its published weights, or {new}=None'
            )


def _load_body(body: ResNet, weights: Weights) -> None:
    """The classifier of a ResNet has no place in a detector; everything else must fit."""
    state = {name: tensor for name, tensor in weights.state.items() if not name.startswith("fc.")}
    load_weights(body, dataclasses.replace(weights, state=state))


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


def _num_classes(requested: int | None, weights: Weights | None) -> int:
    if weights is None:
        return COCO_CLASSES if requested is None else requested
    found = weights.num_classes()
    if not weights.background and requested != found:
        found += 1
    if requested not in (None, found):
        raise ValueError(f"expected num_classes={found} for these weights, got {requested}")
    return found
