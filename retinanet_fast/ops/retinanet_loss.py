"""RetinaNet's two training losses from the head's own outputs."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet_fast._checks.head import check_retinanet_loss
from retinanet_fast.ops.match_anchors import grid_arguments, target_list
from retinanet_fast.structures import AnchorGrid


def retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor | AnchorGrid,
    gt_boxes: Sequence[Tensor] | Tensor,
    gt_labels: Sequence[Tensor] | Tensor,
    *,
    gt_counts: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_loss: str = "l1",
    smooth_l1_beta: float = 1 / 9,
    box_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    high_threshold: float = 0.5,
    low_threshold: float = 0.4,
    allow_low_quality_matches: bool = True,
    match_zero_iou: bool = True,
) -> dict[str, Tensor]:
    r"""RetinaNet's classification loss and box loss (Lin et al., https://arxiv.org/abs/1708.02002) of a batch.

    ``F_b`` is the number of foreground anchors of image ``b`` by :func:`match_anchors`, and the inner sums are over
    that image's anchors ``a``:

    .. math::

        \text{classification} &= \frac{1}{B} \sum_b \frac{1}{\max(1, F_b)} \sum_{\text{not ignored}} \text{focal}_a \\
        \text{box loss} &= \frac{1}{B} \sum_b \frac{1}{\max(1, F_b)} \sum_{\text{foreground}} \text{box}_a

    ``box_loss`` is ``"l1"`` or ``"smooth_l1"`` of the difference between the deltas and the encoded box
    (:func:`encode_boxes`), or ``"giou"``, ``1 - GIoU`` of the decoded box and its target
    (https://arxiv.org/abs/1902.09630).

    The levels are read where they lie: contiguous, channels_last, a mixture of these, or slices of a wider output.
    Nothing is permuted, concatenated or copied, and gradients have the layout of their inputs.

    Args:
        cls_logits: one tensor ``[B, K * C, H, W]`` per level; channel ``k * C + c`` is class ``c`` of anchor ``k`` of a
            cell.
        bbox_regression: the deltas of the same levels, ``[B, K * 4, H, W]``, of any dtype but float64, which goes with
            float64 alone.
        anchors: an :class:`AnchorGrid`, or ``[A, 4]`` in the order level, y, x, k; xyxy in pixels.
        gt_boxes: one tensor ``[G_i, 4]`` per image, xyxy in pixels; or padded, ``[B, G, 4]``.
        gt_labels: their classes, ``[G_i]`` int64 in ``[0, C)``; or ``[B, G]`` beside padded boxes.
        gt_counts: how many of each image's ``G`` padded boxes are boxes, ``[B]`` int64; by default all. See
            :func:`match_anchors`.
        alpha: the weight of foreground; background has ``1 - alpha``. -1: both have 1.
        gamma: the focusing exponent, at least 0.
        box_loss: ``"l1"``, ``"smooth_l1"`` or ``"giou"``.
        smooth_l1_beta: where smooth L1 turns from square to linear.
        box_weights: ``weights`` of :func:`encode_boxes`.
        high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou: see :func:`match_anchors`.

    Returns:
        ``{"classification": ..., "bbox_regression": ...}``, scalars in float32 (float64 for float64 outputs);
        float16 and bfloat16 are computed in float32. Differentiable by logits and deltas, once. The same bits on
        every run and for any number of threads.
        Under ``torch.func``'s transforms (per-image gradients by ``vmap(grad(...))``, say) and for dual tensors plain
        PyTorch computes the losses from the op's own matches, with derivatives of any order; it stores what it computes
        per anchor.

    Raises:
        ValueError: shapes, devices or options that do not match, or a box without area (see :func:`match_anchors`).
        TypeError: dtypes other than these.
        IndexError: a label outside ``[0, C)``, with its image and row. On CUDA, where the values are not looked at
            on the host, the next call, or :func:`retinanet_fast.synchronize_errors`, raises the error.
    """
    classification, bbox = torch.ops.retinanet_fast.retinanet_loss(
        list(cls_logits),
        list(bbox_regression),
        *grid_arguments(anchors),
        target_list(gt_boxes),
        target_list(gt_labels),
        gt_counts,
        alpha,
        gamma,
        box_loss,
        smooth_l1_beta,
        box_weights,
        high_threshold,
        low_threshold,
        allow_low_quality_matches,
        match_zero_iou,
    )
    return {"classification": classification, "bbox_regression": bbox}


@torch.library.register_fake("retinanet_fast::retinanet_loss")
def _(cls_logits: Sequence[Tensor], *arguments: Any) -> tuple[Tensor, Tensor]:
    check_retinanet_loss(cls_logits, *arguments)
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    return cls_logits[0].new_empty((), dtype=dtype), cls_logits[0].new_empty((), dtype=dtype)


@torch.library.register_fake("retinanet_fast::retinanet_loss_with_gradients")
def _(
    of_logits: bool,
    of_deltas: bool,
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    *_: object,
) -> tuple[Tensor, Tensor, list[Tensor], list[Tensor]]:
    dtype = torch.promote_types(cls_logits[0].dtype, torch.float32)
    return (
        cls_logits[0].new_empty((), dtype=dtype),
        cls_logits[0].new_empty((), dtype=dtype),
        [torch.empty_like(x) for x in cls_logits] if of_logits else [],
        [torch.empty_like(x) for x in bbox_regression] if of_deltas else [],
    )


@torch.library.register_fake("retinanet_fast::retinanet_loss_backward")
def _(
    grad_classification: Tensor,
    grad_bbox: Tensor,
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    *_: object,
) -> tuple[list[Tensor], list[Tensor]]:
    return [torch.empty_like(x) for x in cls_logits], [torch.empty_like(x) for x in bbox_regression]
