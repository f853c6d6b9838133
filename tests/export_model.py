"""A small detector that finds something, for the tests of exported files, and pictures for it."""

from __future__ import annotations

import torch
from torch import Tensor

from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models import RetinaNet

RECIPE = Recipe(arch="resnet18", fpn_channels=16, min_size=[160], max_size=224, head_norm="group")
CLASSES = 3


def make_detector(recipe: Recipe = RECIPE) -> RetinaNet:
    """Random weights, of which the last ones are larger than at the start of a training: scores from 0 to 1."""
    torch.manual_seed(0)
    model = build_model(recipe, CLASSES + 1).eval()
    with torch.no_grad():
        model.head.get_submodule("classification_head.cls_logits").weight.mul_(30)
        model.head.get_submodule("regression_head.bbox_reg").weight.mul_(10)
    return model


def pictures(batch: int, height: int, width: int) -> Tensor:
    """Smooth colours with some noise: neighbouring pixels are alike, as in a photograph."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(batch, 3, 6, 7, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (smooth + 0.1 * torch.randn(batch, 3, height, width, generator=generator)).clamp(0, 1)
