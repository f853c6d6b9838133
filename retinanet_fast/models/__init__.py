"""RetinaNet with ResNet and ResNeXt FPN backbones, a drop-in for torchvision's detection models."""

from retinanet_fast.models.backbone import backbone_with_fpn
from retinanet_fast.models.batch_detector import BatchDetector
from retinanet_fast.models.builders import (
    retinanet_resnet18_fpn,
    retinanet_resnet34_fpn,
    retinanet_resnet50_fpn,
    retinanet_resnet50_fpn_v2,
    retinanet_resnet101_fpn,
    retinanet_resnet152_fpn,
    retinanet_resnext50_32x4d_fpn,
    retinanet_resnext101_32x8d_fpn,
    retinanet_resnext101_64x4d_fpn,
)
from retinanet_fast.models.fpn import BackboneWithFPN, FeaturePyramidNetwork, LastLevelP6P7
from retinanet_fast.models.head import RetinaNetClassificationHead, RetinaNetHead, RetinaNetRegressionHead
from retinanet_fast.models.resnet import FrozenBatchNorm2d, ResNet
from retinanet_fast.models.retinanet import RetinaNet
from retinanet_fast.models.weights import LoadReport, load_weights

__all__ = [
    "BackboneWithFPN",
    "BatchDetector",
    "FeaturePyramidNetwork",
    "FrozenBatchNorm2d",
    "LastLevelP6P7",
    "LoadReport",
    "ResNet",
    "RetinaNet",
    "RetinaNetClassificationHead",
    "RetinaNetHead",
    "RetinaNetRegressionHead",
    "backbone_with_fpn",
    "load_weights",
    "retinanet_resnet18_fpn",
    "retinanet_resnet34_fpn",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "retinanet_resnet101_fpn",
    "retinanet_resnet152_fpn",
    "retinanet_resnext50_32x4d_fpn",
    "retinanet_resnext101_32x8d_fpn",
    "retinanet_resnext101_64x4d_fpn",
]


def __dir__() -> list[str]:
    return sorted(__all__)
