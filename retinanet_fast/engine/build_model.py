"""Builds the model that a recipe describes, and chooses the device."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from retinanet_fast import models
from retinanet_fast.engine.backbones import network_of_another_library
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.norms import NORM_LAYERS, give_norm, norm_of
from retinanet_fast.engine.recipe import V2, Recipe
from retinanet_fast.engine.recipe.checks import GROUP_CHANNELS
from retinanet_fast.models.resnet import ARCHITECTURES
from retinanet_fast.nn import AnchorGenerator

# Standard deviation of the head's weights, as in the paper.
HEAD_DEVIATION = 0.01
# Layers of a backbone with given weights that are trained, as in torchvision.
TRAINED_WITH_INIT = 3


def build_model(recipe: Recipe, num_classes: int) -> models.RetinaNet:
    """A fresh RetinaNet; ``num_classes`` counts the background. It is given every value of the recipe's sections
    model, loss, images and detection that a model has, or refuses it.

    As in torchvision, everything is trained where the model starts from scratch. Where the recipe starts from given
    weights (``init``, which only training reads), batch norm and the backbone's first layers are frozen, unless
    ``norm`` and ``trainable_layers`` say otherwise. ``resnet50_v2`` is torchvision's v2: its batch norm is trained, its
    head has group norm, P6 is computed from C5, and the box loss is GIoU, unless ``norm``, ``head_norm`` and
    ``box_loss`` say otherwise. Of the networks of timm and torchvision (``timm/NAME``, ``torchvision/NAME``) everything
    is always trained.

    Raises:
        InputError: no such architecture, its library is not installed, or it cannot have the recipe's ``norm``.
    """
    sizes = [(size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in recipe.anchor_sizes]
    anchors = AnchorGenerator(sizes, tuple(recipe.aspect_ratios))
    v2, box_loss = recipe.arch == V2, None if recipe.box_loss == "auto" else recipe.box_loss
    model = models.RetinaNet(
        _backbone(recipe),
        num_classes,
        min_size=tuple(recipe.min_size),
        max_size=recipe.max_size,
        image_mean=recipe.image_mean,
        image_std=recipe.image_std,
        size_divisible=recipe.size_divisible,
        anchor_generator=anchors,
        head=_head(recipe, anchors.num_anchors_per_location()[0], num_classes),
        score_thresh=recipe.score_thresh,
        nms_thresh=recipe.nms_thresh,
        detections_per_img=recipe.detections_per_img,
        topk_candidates=recipe.topk_candidates,
        fg_iou_thresh=recipe.fg_iou_thresh,
        bg_iou_thresh=recipe.bg_iou_thresh,
        allow_low_quality_matches=recipe.allow_low_quality_matches,
        alpha=recipe.alpha,
        gamma=recipe.gamma,
        box_loss="giou" if v2 and box_loss is None else box_loss,
        smooth_l1_beta=recipe.smooth_l1_beta,
    )
    if recipe.identity_start:
        start_near_identity(model)
    return model


def _head(recipe: Recipe, num_anchors: int, num_classes: int) -> models.RetinaNetHead:
    channels = recipe.fpn_channels
    grouped = recipe.head_norm == "group" or (recipe.head_norm == "auto" and recipe.arch == V2)
    norm_layer = partial(nn.GroupNorm, channels // GROUP_CHANNELS) if grouped else None
    return models.RetinaNetHead(channels, num_anchors, num_classes, norm_layer=norm_layer)


def _backbone(recipe: Recipe) -> nn.Module:
    channels = recipe.fpn_channels
    body = network_of_another_library(recipe.arch)
    if body is not None:
        try:
            return models.backbone_with_fpn(give_norm(body, recipe), out_channels=channels)
        except ValueError as error:
            raise InputError(f"arch {recipe.arch}: {error}") from None
    if recipe.arch not in [*ARCHITECTURES, V2]:
        known = ", ".join([*ARCHITECTURES, V2])
        raise InputError(f"arch {recipe.arch}: expected one of {known}, timm/NAME or torchvision/NAME")
    v2 = recipe.arch == V2
    own = models.ResNet(ARCHITECTURES["resnet50" if v2 else recipe.arch], NORM_LAYERS[norm_of(recipe)])
    if recipe.init:
        own.freeze_all_but(TRAINED_WITH_INIT if recipe.trainable_layers == -1 else recipe.trainable_layers)
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
