"""The methods of torchvision's RetinaNet over the ops.

They read the model's attributes when they are called. Where it has come to need something that the op does not do, they
warn and run torchvision's code, with our NMS.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast import ops
from retinanet_fast.acceleration.head_levels import (
    HeadLevels,
    level_outputs,
    split_outputs,
    split_rows,
    whole_outputs,
)
from retinanet_fast.acceleration.obstacles import (
    call_obstacle,
    detect_obstacle,
    has_hooks,
    head_obstacle,
    loss_obstacle,
    overridden,
    torchvision_module,
)
from retinanet_fast.acceleration.rebind import box_ops_with_our_nms, rebind

__all__ = ["compute_loss", "head_forward", "postprocess_detections"]

Target = dict[str, Tensor]

# torchvision's _box_loss takes the beta of smooth L1 from settings that its RetinaNet never gives.
SMOOTH_L1_BETA = 1.0


def compute_loss(
    self: Any, targets: Sequence[Target], head_outputs: dict[str, Any], anchors: Sequence[Tensor]
) -> dict[str, Tensor]:
    """``RetinaNet.compute_loss`` by ``ops.retinanet_loss``."""
    obstacle = loss_obstacle(self)
    if obstacle is not None:
        _warn("compute_loss", obstacle)
        losses: dict[str, Tensor] = torchvision_module().RetinaNet.compute_loss(
            self, targets, whole_outputs(head_outputs), anchors
        )
        return losses
    logits, deltas = level_outputs(head_outputs["cls_logits"], head_outputs["bbox_regression"])
    boxes = [target["boxes"] for target in targets]
    labels = [target["labels"] for target in targets]
    options = _loss_options(self)
    if _same_for_all_images(self.anchor_generator):
        return ops.retinanet_loss(logits, deltas, anchors[0], boxes, labels, **options)
    total: dict[str, Tensor] = {}
    for image, image_anchors in enumerate(anchors):
        part = slice(image, image + 1)
        losses = ops.retinanet_loss(
            [level[part] for level in logits],
            [level[part] for level in deltas],
            image_anchors,
            boxes[part],
            labels[part],
            **options,
        )
        total = {name: total[name] + loss if total else loss for name, loss in losses.items()}
    return {name: loss / len(anchors) for name, loss in total.items()}


def postprocess_detections(
    self: Any,
    head_outputs: dict[str, Sequence[Tensor]],
    anchors: Sequence[Sequence[Tensor]],
    image_shapes: Sequence[tuple[int, int]],
) -> list[dict[str, Tensor]]:
    """``RetinaNet.postprocess_detections`` by ``ops.retinanet_detect``."""
    logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
    obstacle = detect_obstacle(self) or call_obstacle(logits, deltas)
    if obstacle is not None:
        _warn("postprocess_detections", obstacle)
        rows = split_rows(logits, deltas)
        outputs = {**head_outputs, "cls_logits": rows[0], "bbox_regression": rows[1]}
        detections: list[dict[str, Tensor]] = _postprocess_with_our_nms()(
            self, outputs, anchors, image_shapes
        )
        return detections
    logits, deltas = split_outputs(logits, deltas)
    options = _detect_options(self, logits)
    if _same_for_all_images(self.anchor_generator):
        found = ops.retinanet_detect(
            logits, deltas, torch.cat(list(anchors[0])), image_shapes, **options
        ).unpack()
    else:
        found = []
        for image, (image_anchors, shape) in enumerate(zip(anchors, image_shapes, strict=True)):
            part = slice(image, image + 1)
            levels = [level[part] for level in logits], [level[part] for level in deltas]
            found += ops.retinanet_detect(
                *levels, torch.cat(list(image_anchors)), [shape], **options
            ).unpack()
    if logits[0].dtype == torch.float64:
        found = [_in_float64(detection) for detection in found]
    return found


def head_forward(self: Any, x: Sequence[Tensor]) -> dict[str, Any]:
    """``RetinaNetHead.forward`` without permuting or concatenating the levels."""
    if head_obstacle(self) is not None:
        outputs: dict[str, Any] = torchvision_module().RetinaNetHead.forward(self, x)
        return outputs
    classification, regression = self.classification_head, self.regression_head
    logits = [classification.cls_logits(classification.conv(features)) for features in x]
    deltas = [regression.bbox_reg(regression.conv(features)) for features in x]
    return {
        "cls_logits": HeadLevels(logits, classification.num_classes),
        "bbox_regression": HeadLevels(deltas, 4),
    }


def _loss_options(model: Any) -> dict[str, Any]:
    matcher, regression = model.proposal_matcher, model.head.regression_head
    return {
        "box_loss": regression._loss_type,
        "smooth_l1_beta": SMOOTH_L1_BETA,
        "box_weights": tuple(regression.box_coder.weights),
        "high_threshold": matcher.high_threshold,
        "low_threshold": matcher.low_threshold,
        "allow_low_quality_matches": matcher.allow_low_quality_matches,
    }


def _detect_options(model: Any, logits: Sequence[Tensor]) -> dict[str, Any]:
    # The op's result has detections_per_img rows: no more than there are candidates, whatever the model asks for.
    sizes = [level.shape[1] * level.shape[2] * level.shape[3] for level in logits]
    topk = min(model.topk_candidates, max(1, *sizes))
    return {
        "score_thresh": float(model.score_thresh),
        "topk_candidates": topk,
        "nms_thresh": model.nms_thresh,
        "detections_per_img": min(model.detections_per_img, max(1, sum(min(topk, size) for size in sizes))),
        "box_weights": tuple(model.box_coder.weights),
    }


def _same_for_all_images(generator: nn.Module) -> bool:
    """torchvision's ``AnchorGenerator.forward`` makes the anchors once and repeats them for each image."""
    owner = sys.modules["torchvision.models.detection.anchor_utils"].AnchorGenerator
    return not overridden(generator, "forward", owner) and not has_hooks(generator)


def _in_float64(detection: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in detection.items()}


def _warn(method: str, obstacle: str) -> None:
    warnings.warn(
        f"retinanet_fast.accelerate: RetinaNet.{method} runs torchvision's code: {obstacle}", stacklevel=3
    )


@cache
def _postprocess_with_our_nms() -> Any:
    box_ops = box_ops_with_our_nms(sys.modules["torchvision.ops.boxes"])
    return rebind(torchvision_module().RetinaNet.postprocess_detections, {"box_ops": box_ops})
