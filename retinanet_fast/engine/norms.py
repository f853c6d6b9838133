"""The normalisation of a recipe's backbone: ``batch``, ``sync_batch``, ``frozen_batch`` or ``group``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from retinanet_fast import models
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.recipe import V2, Recipe

GROUPS = 32  # of group norm in the ResNet, as in its paper (https://arxiv.org/abs/1803.08494)

NORM_LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "sync_batch": nn.SyncBatchNorm,  # of one process the same as batch
    "frozen_batch": models.FrozenBatchNorm2d,
    "group": partial(nn.GroupNorm, GROUPS),
}


def norm_of(recipe: Recipe) -> str:
    """The backbone's norm, a key of ``NORM_LAYERS``, with ``auto`` decided.

    As in torchvision, ``auto`` freezes batch norm where the backbone starts from given weights, but neither v2's nor
    that of another library's network.
    """
    if recipe.norm != "auto":
        return recipe.norm
    return "frozen_batch" if recipe.init and recipe.arch != V2 and "/" not in recipe.arch else "batch"


def check_norm(recipe: Recipe, device: torch.device, world_size: int) -> None:
    """Refuse what cannot be trained: torch synchronises batch norm between GPUs alone.

    Raises:
        InputError: ``sync_batch`` over several processes on CPUs.
    """
    if norm_of(recipe) == "sync_batch" and world_size > 1 and device.type == "cpu":
        raise InputError(
            f"norm sync_batch: expected GPUs, got {world_size} processes on the CPU, between which torch does not "
            "synchronise batch norm: choose --norm batch or group, or one process"
        )


def give_norm(body: nn.Module, recipe: Recipe) -> nn.Module:
    """A network of timm or torchvision whose batch norm is the recipe's; ``auto`` leaves the network as it is.

    Raises:
        InputError: the network has no batch norm.
    """
    if recipe.norm == "auto":
        return body
    if not any(isinstance(module, nn.BatchNorm2d) for module in body.modules()):
        raise InputError(f"norm {recipe.norm}: arch {recipe.arch} has no batch norm: leave norm at auto")
    if recipe.norm == "batch":
        return body
    if recipe.arch.startswith("timm/"):  # whose batch norm may have an activation in it
        from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

        return (convert_sync_batchnorm if recipe.norm == "sync_batch" else freeze_batch_norm_2d)(body)
    if recipe.norm == "sync_batch":
        return nn.SyncBatchNorm.convert_sync_batchnorm(body)
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            parent, _, last = name.rpartition(".")
            setattr(body.get_submodule(parent), last, _frozen(module))
    return body


def _frozen(norm: nn.BatchNorm2d) -> nn.Module:
    frozen: Any = models.FrozenBatchNorm2d(norm.num_features, norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen
