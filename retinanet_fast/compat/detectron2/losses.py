"""detectron2's losses of RetinaNet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from retinanet_fast.compat._box_loss import giou_loss
from retinanet_fast.compat._focal_loss import wide_focal_loss
from retinanet_fast.compat.detectron2.boxes import Box2BoxTransform
from retinanet_fast.compat.detectron2.structures import concatenated

EPS = 1e-7  # detectron2's, in the divisors of IoUs
BOX_LOSSES = ("smooth_l1", "giou", "diou", "ciou")


class LossNormalizer:
    """What detectron2 divides both losses by: a running mean of the number of foreground anchors in a batch, which
    starts at 100 and keeps 0.9 of its old value in each step (``DenseDetector._ema_update``)."""

    def __init__(self, value: float = 100, momentum: float = 0.9) -> None:
        self.value = value
        self.momentum = momentum

    def update(self, num_pos_anchors: int) -> float:
        """One step. No foreground counts as one anchor."""
        self.value = self.value * self.momentum + max(num_pos_anchors, 1) * (1 - self.momentum)
        return self.value


def retinanet_losses(
    anchors: Any,
    pred_logits: Sequence[Tensor],
    gt_labels: Sequence[Tensor] | Tensor,
    pred_anchor_deltas: Sequence[Tensor],
    gt_boxes: Sequence[Tensor] | Tensor,
    *,
    num_classes: int,
    loss_normalizer: LossNormalizer | float | None = None,
    focal_loss_alpha: float = 0.25,
    focal_loss_gamma: float = 2.0,
    smooth_l1_beta: float = 0.0,
    box_reg_loss_type: str = "smooth_l1",
    box2box_transform: Any = None,
) -> dict[str, Tensor]:
    """``RetinaNet.losses`` as a function of tensors, by :func:`retinanet_fast.ops.sigmoid_focal_loss`.

    Both losses are sums over the batch, divided by ``loss_normalizer``: neither is a mean over images, as those of
    ``ops.retinanet_loss`` and torchvision are. The logits of each level are read once, with their gradient made in the
    same pass, and not concatenated; no one-hot targets are made. The box loss is computed for the foreground alone.

    What differs: half logits are computed in float32 without a copy of them. detectron2's default
    configuration sets ``smooth_l1_beta`` to 0.1; its class, and this function, have 0, which is L1.

    Args:
        anchors: ``[R, 4]``, or one tensor or ``Boxes`` per level.
        pred_logits: one tensor ``[N, R_l, K]`` per level.
        gt_labels: N tensors ``[R]`` in {-1, 0, ..., K} as :func:`label_anchors` returns them: background K, ignored -1.
        pred_anchor_deltas: one tensor ``[N, R_l, 4]`` per level.
        gt_boxes: N tensors ``[R, 4]``, the box of each foreground anchor.
        num_classes: K.
        loss_normalizer: a :class:`LossNormalizer`, which makes one step, or a number. None: the number of foreground
            anchors of the batch, at least 1.
        focal_loss_alpha, focal_loss_gamma, smooth_l1_beta, box_reg_loss_type, box2box_transform: as the attributes of
            detectron2's model; the box loss is ``"smooth_l1"``, ``"giou"``, ``"diou"`` or ``"ciou"``.

    Returns:
        ``{"loss_cls": ..., "loss_box_reg": ...}``. Waits for a CUDA device once, as detectron2 does, to count the
        foreground anchors.
    """
    loss_cls, loss_box_reg, num_pos_anchors = loss_sums(
        anchors,
        pred_logits,
        gt_labels,
        pred_anchor_deltas,
        gt_boxes,
        num_classes,
        focal_loss_alpha,
        focal_loss_gamma,
        smooth_l1_beta,
        box_reg_loss_type,
        box2box_transform or Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    )
    if loss_normalizer is None:
        normalizer: float = max(num_pos_anchors, 1)
    elif isinstance(loss_normalizer, LossNormalizer):
        normalizer = loss_normalizer.update(num_pos_anchors)
    else:
        normalizer = loss_normalizer
    return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}


def loss_sums(
    anchors: Any,
    pred_logits: Sequence[Tensor],
    gt_labels: Sequence[Tensor] | Tensor,
    pred_anchor_deltas: Sequence[Tensor],
    gt_boxes: Sequence[Tensor] | Tensor,
    num_classes: int,
    alpha: float,
    gamma: float,
    smooth_l1_beta: float,
    box_reg_loss_type: str,
    transform: Any,
) -> tuple[Tensor, Tensor, int]:
    """Both losses before they are divided, and the number of foreground anchors of the batch."""
    if box_reg_loss_type not in BOX_LOSSES:
        raise ValueError(f"losses: expected box_reg_loss_type one of {BOX_LOSSES}, got {box_reg_loss_type!r}")
    labels = torch.stack(tuple(gt_labels))  # [N, R]
    _check(pred_logits, labels, num_classes)
    # Here -1 is background and -2 ignored.
    targets = torch.where(labels == num_classes, -1, torch.where(labels < 0, -2, labels))
    loss_cls = torch.zeros((), dtype=torch.float32, device=labels.device)
    for logits, level in zip(pred_logits, targets.split([x.shape[1] for x in pred_logits], dim=1)):
        loss_cls = loss_cls + wide_focal_loss(logits, level, alpha, gamma, "sum")

    image, anchor = (targets >= 0).nonzero(as_tuple=True)
    deltas = torch.cat(tuple(pred_anchor_deltas), dim=1)[image, anchor].float()
    loss_box_reg = _box_loss(
        concatenated(anchors)[anchor],
        deltas,
        torch.stack(tuple(gt_boxes))[image, anchor],
        transform,
        box_reg_loss_type,
        smooth_l1_beta,
    )
    return loss_cls, loss_box_reg, anchor.shape[0]


def _box_loss(
    anchors: Tensor, deltas: Tensor, boxes: Tensor, transform: Any, kind: str, smooth_l1_beta: float
) -> Tensor:
    """The sum over the foreground, all ``[F, 4]``."""
    if kind == "smooth_l1":
        target = transform.get_deltas(anchors, boxes)
        beta = smooth_l1_beta if smooth_l1_beta >= 1e-5 else 0.0  # below, detectron2 has L1
        return F.smooth_l1_loss(deltas, target, reduction="sum", beta=beta)
    decoded = transform.apply_deltas(deltas, anchors)
    return (
        giou_loss(decoded, boxes, EPS) if kind == "giou" else _distance_iou_loss(decoded, boxes, kind)
    ).sum()


def _distance_iou_loss(boxes: Tensor, targets: Tensor, kind: str, eps: float = EPS) -> Tensor:
    """``1 - IoU`` with the penalties of DIoU or CIoU (https://arxiv.org/abs/1911.08287). ``[F]``."""
    low, high = torch.maximum(boxes[:, :2], targets[:, :2]), torch.minimum(boxes[:, 2:], targets[:, 2:])
    sides, target_sides = boxes[:, 2:] - boxes[:, :2], targets[:, 2:] - targets[:, :2]
    inter = (high - low).clamp(min=0).prod(dim=1)
    union = sides.prod(dim=1) + target_sides.prod(dim=1) - inter
    iou = inter / (union + eps)
    hull = torch.maximum(boxes[:, 2:], targets[:, 2:]) - torch.minimum(boxes[:, :2], targets[:, :2])
    between = (boxes[:, :2] + boxes[:, 2:] - targets[:, :2] - targets[:, 2:]) / 2
    loss = 1 - iou + between.square().sum(dim=1) / (hull.square().sum(dim=1) + eps)
    if kind == "diou":
        return loss
    angle = torch.atan(target_sides[:, 0] / target_sides[:, 1]) - torch.atan(sides[:, 0] / sides[:, 1])
    v = 4 / math.pi**2 * angle.square()
    with torch.no_grad():
        weight = v / (1 - iou + v + eps)
    return loss + weight * v


def _check(pred_logits: Sequence[Tensor], labels: Tensor, num_classes: int) -> None:
    rows = sum(logits.shape[1] for logits in pred_logits)
    if labels.dim() != 2 or labels.shape[1] != rows:
        raise ValueError(
            f"losses: expected gt_labels [{rows}] per image for logits of {rows} anchors, "
            f"got {list(labels.shape[1:])}"
        )
    for logits in pred_logits:
        expected = [labels.shape[0], logits.shape[1], num_classes]
        if list(logits.shape) != expected:
            raise ValueError(
                f"losses: expected pred_logits {expected} ([N, R_l, K]), got {list(logits.shape)}"
            )
