"""Why a torchvision RetinaNet, as it is at this moment, needs its own code in the place of an op."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

__all__ = [
    "call_obstacle",
    "detect_obstacle",
    "has_hooks",
    "head_obstacle",
    "loss_obstacle",
    "overridden",
    "torchvision_module",
]

BOX_LOSSES = ("l1", "smooth_l1", "giou")
MAX_LOG_SCALE = math.log(1000 / 16)  # the clamp of the ops
MOST_LEVELS = 8


def torchvision_module() -> Any:
    """``torchvision.models.detection.retinanet``, which a model of it has imported."""
    return sys.modules["torchvision.models.detection.retinanet"]


def loss_obstacle(model: Any) -> str | None:
    """Why ``ops.retinanet_loss`` does not compute this model's loss; None if it does."""
    r = torchvision_module()
    head = model.head
    parts = [(head, "head", r.RetinaNetHead)]
    if not overridden(head, "compute_loss", r.RetinaNetHead):
        parts.append((head.classification_head, "head.classification_head", r.RetinaNetClassificationHead))
        parts.append((head.regression_head, "head.regression_head", r.RetinaNetRegressionHead))
    for part, path, owner in parts:
        if overridden(part, "compute_loss", owner):
            return f"{path} is a {type(part).__name__} with its own compute_loss"
    matcher, coder = model.proposal_matcher, head.regression_head.box_coder
    utils = r.det_utils
    if overridden(matcher, "__call__", utils.Matcher) or overridden(
        matcher, "set_low_quality_matches_", utils.Matcher
    ):
        return f"proposal_matcher is a {type(matcher).__name__} with its own rule"
    values = (
        matcher.BELOW_LOW_THRESHOLD,
        matcher.BETWEEN_THRESHOLDS,
        head.classification_head.BETWEEN_THRESHOLDS,
    )
    if values != (-1, -2, -2):
        return f"BELOW_LOW_THRESHOLD, BETWEEN_THRESHOLDS and the head's BETWEEN_THRESHOLDS are {values}, not -1, -2, -2"
    kind = head.regression_head._loss_type
    if kind not in BOX_LOSSES:
        return f"head.regression_head._loss_type is {kind!r}, not one of {', '.join(BOX_LOSSES)}"
    method = "decode_single" if kind == "giou" else "encode_single"
    return _coder_obstacle(coder, method, "head.regression_head.box_coder")


def detect_obstacle(model: Any) -> str | None:
    """Why ``ops.retinanet_detect`` does not compute this model's detections; None if it does."""
    for name in ("topk_candidates", "detections_per_img"):
        value = getattr(model, name)
        if value < 1:
            return f"{name} is {value}, less than 1"
    return _coder_obstacle(model.box_coder, "decode_single", "box_coder")


def head_obstacle(head: Any) -> str | None:
    """Why somebody may need the head's outputs as one tensor each; None if nobody does."""
    r = torchvision_module()
    parts = (
        (head, "head", None),
        (head.classification_head, "head.classification_head", r.RetinaNetClassificationHead),
        (head.regression_head, "head.regression_head", r.RetinaNetRegressionHead),
    )
    for part, path, owner in parts:
        if owner is not None and overridden(part, "forward", owner):
            return f"{path} is a {type(part).__name__} with its own forward"
        if has_hooks(part):
            return f"{path} has hooks"
    if nn_module._global_forward_hooks or nn_module._global_forward_pre_hooks:
        return "there are hooks on all modules"
    return None


def overridden(instance: Any, name: str, owner: type) -> bool:
    """Whether ``instance`` has another method of this name than ``owner``."""
    return name in instance.__dict__ or getattr(type(instance), name, None) is not getattr(owner, name)


def has_hooks(module: nn.Module) -> bool:
    """Whether something sees the inputs, outputs or gradients of ``module``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _coder_obstacle(coder: Any, method: str, path: str) -> str | None:
    if overridden(coder, method, torchvision_module().det_utils.BoxCoder):
        return f"{path} is a {type(coder).__name__} with its own {method}"
    if method == "decode_single" and coder.bbox_xform_clip != MAX_LOG_SCALE:
        return f"{path}.bbox_xform_clip is {coder.bbox_xform_clip:g}, not log(1000 / 16)"
    return None


def call_obstacle(logits: Sequence[Tensor], deltas: Sequence[Tensor]) -> str | None:
    """Why ``ops.retinanet_detect`` does not take these outputs; None if it does."""
    if len(logits) > MOST_LEVELS:
        return f"there are {len(logits)} levels, more than {MOST_LEVELS}"
    if torch.is_grad_enabled() and any(level.requires_grad for level in (*logits, *deltas)):
        return "gradients are recorded; detect under torch.no_grad() or torch.inference_mode()"
    return None
