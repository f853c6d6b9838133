"""Builds the model that a recipe describes, and chooses the device."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from retinanet_fast import models
from retinanet_fast.engine.backbones import network_of_another_library
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import V2, Recipe
from retinanet_fast.models.resnet import ARCHITECTURES
from retinanet_fast.nn import AnchorGenerator

# Channels per group of the head's group norm: 256 channels in 32 groups.
GROUP_CHANNELS = 8
# Standard deviation of the head's weights, as in the paper.
HEAD_DEVIATION = 0.01


def build_model(recipe: Recipe, num_classes: int) -> models.RetinaNet:
    """A fresh RetinaNet; ``num_classes`` counts the background.

    As in torchvision, the backbone's batch norm is trained where the model starts from scratch. Where the recipe
    starts from given weights (``init``, which only training reads), batch norm and the backbone's first layers are
    frozen. ``resnet50_v2`` is torchvision's v2: its batch norm is always trained, its head has group norm, P6 is
    computed from C5, and the box loss is GIoU. Of the networks of timm and torchvision (``timm/NAME``,
    ``torchvision/NAME``) everything is always trained.

    Raises:
        InputError: no such architecture, or its library is not installed.
    """
    sizes = [(size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in recipe.anchor_sizes]
    keywords: dict[str, Any] = {
        "min_size": tuple(recipe.min_size),
        "max_size": recipe.max_size,
        "anchor_generator": AnchorGenerator(sizes, tuple(recipe.aspect_ratios)),
        "score_thresh": recipe.score_thresh,
        "nms_thresh": recipe.nms_thresh,
        "topk_candidates": recipe.topk_candidates,
        "detections_per_img": recipe.detections_per_img,
    }
    v2, channels = recipe.arch == V2, recipe.fpn_channels
    backbone = _backbone(recipe)
    if v2:
        keywords["box_loss"] = "giou"
    if recipe.head_norm or v2:
        anchors = keywords["anchor_generator"].num_anchors_per_location()[0]
        norm_layer = partial(nn.GroupNorm, channels // GROUP_CHANNELS)
        keywords["head"] = models.RetinaNetHead(channels, anchors, num_classes, norm_layer=norm_layer)
    model = models.RetinaNet(backbone, num_classes, **keywords)
    if recipe.identity_start:
        start_near_identity(model)
    return model


def _backbone(recipe: Recipe) -> nn.Module:
    channels = recipe.fpn_channels
    body = network_of_another_library(recipe.arch)
    if body is not None:
        try:
            return models.backbone_with_fpn(body, out_channels=channels)
        except ValueError as error:
            raise InputError(f"arch {recipe.arch}: {error}") from None
    if recipe.arch not in [*ARCHITECTURES, V2]:
        known = ", ".join([*ARCHITECTURES, V2])
        raise InputError(f"arch {recipe.arch}: expected one of {known}, timm/NAME or torchvision/NAME")
    v2, pretrained = recipe.arch == V2, bool(recipe.init)
    norm = models.FrozenBatchNorm2d if pretrained and not v2 else nn.BatchNorm2d
    own = models.ResNet(ARCHITECTURES["resnet50" if v2 else recipe.arch], norm)
    if pretrained:
        own.freeze_all_but(recipe.trainable_layers)
    top = models.LastLevelP6P7(own.out_channels[-1] if v2 else channels, channels)
    pyramid = models.FeaturePyramidNetwork(own.out_channels, channels, top)
    return models.BackboneWithFPN(own, pyramid, channels)


def start_near_identity(model: nn.Module) -> None:
    """Start each residual block and each hidden convolution of the head near the identity.

    Random layers lose the colours and edges that tell classes apart, so that a short training learns where objects are
    long before it learns which they are.
    """
    bodies = [module for module in model.modules() if isinstance(module, models.ResNet)]
    # In other networks a norm of this name need not end a residual branch.
    for module in (module for body in bodies for module in body.modules()):
        last_norm = getattr(module, "bn3", getattr(module, "bn2", None))
        if last_norm is not None:
            nn.init.zeros_(last_norm.weight)
    for name, module in model.named_modules():
        hidden = name.startswith("head.") and ".conv." in name
        if hidden and isinstance(module, nn.Conv2d):
            start = torch.randn_like(module.weight) * HEAD_DEVIATION
            nn.init.dirac_(module.weight)
            with torch.no_grad():
                module.weight.add_(start)


def choose_device(name: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        InputError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"--device {name}: not usable here: {str(error).strip().splitlines()[0]}") from None
    return device
