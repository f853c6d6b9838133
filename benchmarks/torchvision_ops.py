"""torchvision's detection code under the names and signatures of `retinanet_fast.ops`.

`prepare_<op>` turns our inputs into torchvision's outside the timing: one-hot targets, explicit anchors and,
for detection, outputs that are permuted already. The comparison is so kept in torchvision's favour.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import retinanet as tv_retinanet
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, box_iou, nms, sigmoid_focal_loss

__all__ = [
    "batched_nms",
    "box_iou",
    "decode_boxes",
    "encode_boxes",
    "match_anchors",
    "nms",
    "retinanet_detect",
    "retinanet_loss",
    "sigmoid_focal_loss",
]

Prepared = tuple[tuple[Any, ...], dict[str, Any]]

BOX_CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
MATCHER = Matcher(0.5, 0.4, allow_low_quality_matches=True)


def prepare_sigmoid_focal_loss(inputs: Tensor, targets: Tensor, **kwargs: Any) -> Prepared:
    if not targets.is_floating_point():
        foreground = targets >= 0
        one_hot = F.one_hot(targets.clamp(min=0), inputs.shape[-1]).to(inputs.dtype)
        targets = one_hot * foreground.unsqueeze(-1)
    return (inputs, targets), kwargs


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    return BOX_CODER.encode_single(boxes, anchors)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    return BOX_CODER.decode_single(deltas, anchors)


def prepare_match_anchors(anchors: Any, gt_boxes: Sequence[Tensor]) -> Prepared:
    return (_explicit(anchors), gt_boxes), {}


def match_anchors(anchors: Tensor, gt_boxes: Sequence[Tensor]) -> Tensor:
    matches = [MATCHER(box_iou(boxes, anchors)) for boxes in gt_boxes]
    return matches[0][None] if len(matches) == 1 else torch.stack(matches)


def prepare_retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Any,
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
) -> Prepared:
    boxes = _explicit(anchors)
    targets = [{"boxes": b, "labels": n} for b, n in zip(gt_boxes, gt_labels, strict=True)]
    num_anchors, num_classes = _channels(cls_logits, bbox_regression)
    head = tv_retinanet.RetinaNetHead(1, num_anchors, num_classes)  # its convolutions are not used
    model = SimpleNamespace(head=head, proposal_matcher=MATCHER)
    return (model, cls_logits, bbox_regression, [boxes] * len(targets), targets, num_classes), {}


def retinanet_loss(
    model: Any,
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: list[Tensor],
    targets: list[dict[str, Tensor]],
    num_classes: int,
) -> dict[str, Tensor]:
    """The head's permutation and concatenation, torchvision's matching, and both of its losses."""
    outputs = {
        "cls_logits": torch.cat([_rows(level, num_classes) for level in cls_logits], dim=1),
        "bbox_regression": torch.cat([_rows(level, 4) for level in bbox_regression], dim=1),
    }
    return tv_retinanet.RetinaNet.compute_loss(model, targets, outputs, anchors)


def prepare_retinanet_detect(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Any,
    image_sizes: Sequence[tuple[int, int]],
) -> Prepared:
    _, num_classes = _channels(cls_logits, bbox_regression)
    outputs = {
        "cls_logits": [_rows(level, num_classes) for level in cls_logits],
        "bbox_regression": [_rows(level, 4) for level in bbox_regression],
    }
    lengths = [level.shape[1] for level in outputs["cls_logits"]]
    split = list(_explicit(anchors).split(lengths))
    return (outputs, [split] * len(image_sizes), list(image_sizes)), {}


def retinanet_detect(outputs: Any, anchors: Any, image_sizes: Any) -> list[dict[str, Tensor]]:
    model = SimpleNamespace(
        score_thresh=0.05,
        topk_candidates=1000,
        nms_thresh=0.5,
        detections_per_img=300,
        box_coder=BOX_CODER,
    )
    return tv_retinanet.RetinaNet.postprocess_detections(model, outputs, anchors, image_sizes)


def _explicit(anchors: Any) -> Tensor:
    return anchors if isinstance(anchors, Tensor) else anchors.boxes()


def _channels(cls_logits: Sequence[Tensor], bbox_regression: Sequence[Tensor]) -> tuple[int, int]:
    num_anchors = bbox_regression[0].shape[1] // 4
    return num_anchors, cls_logits[0].shape[1] // num_anchors


def _rows(level: Tensor, width: int) -> Tensor:
    """[B, K * width, H, W] to [B, H * W * K, width]."""
    batch, _, height, grid_width = level.shape
    by_anchor = level.view(batch, -1, width, height, grid_width)
    return by_anchor.permute(0, 3, 4, 1, 2).reshape(batch, -1, width)
