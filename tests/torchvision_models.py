"""Small models of torchvision's detection families and a batch for them; needs torchvision."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import anchor_utils, backbone_utils
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

SIZES: dict[str, Any] = {"min_size": 64, "max_size": 100}
NUM_CLASSES = 6


CHANNELS = 32


class TinyBackbone(nn.Module):
    """Two levels of strides 8 and 16."""

    out_channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        # Without a bias, whose gradient before a batch norm is nothing but roundings.
        stem = nn.Conv2d(3, CHANNELS, 9, stride=8, padding=4, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(CHANNELS), nn.ReLU())
        self.down = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.stem(x)
        return {"0": first, "1": self.down(first)}


def tiny_retinanet(**options: Any) -> nn.Module:
    """RetinaNet on two levels, for speed."""
    torch.manual_seed(0)
    anchors = anchor_utils.AnchorGenerator(((8, 12), (24, 40)), ((0.5, 1.0, 2.0),) * 2)
    settings = {
        "anchor_generator": anchors,
        "detections_per_img": 50,
        "topk_candidates": 200,
        **SIZES,
        **options,
    }
    model: nn.Module = detection.RetinaNet(TinyBackbone(), NUM_CLASSES, **settings)
    return spread(model)


def retinanet_v2() -> nn.Module:
    """The five levels, norm layers in the head and GIoU of ``retinanet_resnet50_fpn_v2``, on ResNet-18."""
    torch.manual_seed(0)
    body = backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    anchors = detection.retinanet._default_anchorgen()
    head = detection.retinanet.RetinaNetHead(
        256, 9, NUM_CLASSES, norm_layer=lambda width: nn.GroupNorm(32, width)
    )
    head.regression_head._loss_type = "giou"
    model: nn.Module = detection.RetinaNet(body, NUM_CLASSES, anchor_generator=anchors, head=head, **SIZES)
    return spread(model)


def tiny_fcos() -> nn.Module:
    torch.manual_seed(0)
    anchors = anchor_utils.AnchorGenerator(((8,), (16,)), ((1.0,),) * 2)
    model: nn.Module = detection.FCOS(TinyBackbone(), NUM_CLASSES, anchor_generator=anchors, **SIZES)
    return spread(model)


def tiny_ssd() -> nn.Module:
    torch.manual_seed(0)
    anchors = anchor_utils.DefaultBoxGenerator([[2], [2]])
    head = detection.ssd.SSDHead([CHANNELS, CHANNELS], anchors.num_anchors_per_location(), NUM_CLASSES)
    model: nn.Module = detection.ssd.SSD(TinyBackbone(), anchors, (64, 64), NUM_CLASSES, head=head)
    return spread(model)


def tiny_faster_rcnn() -> nn.Module:
    torch.manual_seed(0)
    anchors = anchor_utils.AnchorGenerator(((16,), (32,)), ((0.5, 1.0, 2.0),) * 2)
    settings = {"rpn_pre_nms_top_n_test": 200, "rpn_post_nms_top_n_test": 50, "rpn_post_nms_top_n_train": 50}
    box_head = detection.faster_rcnn.TwoMLPHead(CHANNELS * 7**2, 32)
    predictor = detection.faster_rcnn.FastRCNNPredictor(32, NUM_CLASSES)
    model: nn.Module = detection.FasterRCNN(
        TinyBackbone(),
        rpn_anchor_generator=anchors,
        box_head=box_head,
        box_predictor=predictor,
        **settings,
        **SIZES,
    )
    return spread(model)


@torch.no_grad()
def spread(model: nn.Module) -> nn.Module:
    """Make scores and boxes differ, as those of a trained model do: a fresh one's are all alike."""
    stds: dict[nn.Module, float] = {}
    for name, module in model.named_modules():
        if "classification" in name or "cls_" in name:
            stds[module] = 2.0
        elif "regression" in name or "bbox_" in name:
            stds[module] = 0.5
    outputs = {
        module: std
        for module, std in stds.items()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.shape[0] not in (CHANNELS, 256)
    }
    scaled = set()

    def scale(module: Any, _: Any, output: Tensor) -> None:
        if module not in scaled:  # the first level's
            module.weight *= outputs[module] / output.std()
            scaled.add(module)

    for module in outputs:
        nn.init.normal_(module.weight)
    hooks = [module.register_forward_hook(scale) for module in outputs]
    model.eval()(batch()[0])
    for hook in hooks:
        hook.remove()
    return model.train()


def batch(dtype: torch.dtype = torch.float32) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Three images of different sizes; the last has no boxes."""
    torch.manual_seed(1)
    images = [torch.rand(3, *size, dtype=dtype) for size in ((32, 48), (48, 32), (64, 64))]
    boxes = [[[5.0, 6, 35, 24], [15, 3, 45, 30]], [[3.0, 12, 25, 44]], []]
    labels = [[1, 5], [3], []]
    targets = [
        {"boxes": torch.tensor(b, dtype=dtype).reshape(-1, 4), "labels": torch.tensor(c).long()}
        for b, c in zip(boxes, labels, strict=True)
    ]
    return images, targets


def run(
    model: nn.Module, dtype: torch.dtype = torch.float32, images: int = 3
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The losses of the first images of ``batch()`` and the gradients of their sum by every parameter."""
    inputs, targets = batch(dtype)
    torch.manual_seed(2)
    losses = model.train()(inputs[:images], targets[:images])
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(sum(losses.values()), list(parameters.values()), allow_unused=True)
    pairs = zip(parameters, gradients, strict=True)
    return losses, {name: gradient for name, gradient in pairs if gradient is not None}


@torch.no_grad()
def detect(model: nn.Module, dtype: torch.dtype = torch.float32, images: int = 3) -> list[dict[str, Tensor]]:
    found: list[dict[str, Tensor]] = model.eval()(batch(dtype)[0][:images])
    return found
