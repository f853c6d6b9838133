"""detectron2's inference of RetinaNet, for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat.detectron2.boxes import Box2BoxTransform
from retinanet_fast.compat.detectron2.structures import tensor_of


def retinanet_inference(
    pred_logits: Sequence[Tensor],
    pred_anchor_deltas: Sequence[Tensor],
    anchors: Sequence[Any],
    *,
    num_classes: int,
    test_score_thresh: float = 0.05,
    test_topk_candidates: int = 1000,
    test_nms_thresh: float = 0.5,
    max_detections_per_image: int = 100,
    box2box_transform: Any = None,
) -> list[dict[str, Tensor]]:
    """``RetinaNet.forward_inference`` as a function of tensors, from the head's outputs as they lie.

    For each image and level, the ``test_topk_candidates`` best (anchor, class) pairs with
    ``sigmoid(logit) > test_score_thresh`` are decoded. Boxes are not clipped, neither before NMS nor after it, as in
    detectron2 (its ``detector_postprocess`` does that), which is why ``ops.retinanet_detect``, which clips before NMS,
    is not used. :func:`retinanet_fast.ops.batched_nms` then treats all images and classes in one call.

    Nothing is permuted or copied, and the sigmoid is taken of candidates alone. What differs: equal scores are ordered
    by level and then by their place ``((y * W + x) * A + a) * K + class``; torch's ``topk`` leaves that open.
    On the CPU a score may differ in its last bit: torch's vectorised sigmoid rounds otherwise than its scalar one.

    Args:
        pred_logits: one tensor ``[B, A * K, H, W]`` per level, any layout.
        pred_anchor_deltas: one tensor ``[B, A * 4, H, W]`` per level.
        anchors: one tensor or ``Boxes`` ``[H * W * A, 4]`` per level.
        num_classes: K.
        test_score_thresh, test_topk_candidates, test_nms_thresh, max_detections_per_image, box2box_transform: as the
            attributes of detectron2's model.

    Returns:
        One dict per image: ``pred_boxes`` ``[D, 4]`` float32, ``scores`` ``[D]`` in the logits' dtype, ``pred_classes``
        ``[D]`` int64 in [0, K); best first. Boxes and scores are differentiable, as the original's.
    """
    lowest = _lowest_logit(test_score_thresh, pred_logits[0].dtype)
    levels = [
        (logits.permute(0, 2, 3, 1), deltas.permute(0, 2, 3, 1))
        for logits, deltas in zip(pred_logits, pred_anchor_deltas)
    ]
    return detect(
        levels,
        [tensor_of(level) for level in anchors],
        num_classes,
        lowest,
        test_score_thresh,
        test_topk_candidates,
        test_nms_thresh,
        max_detections_per_image,
        box2box_transform or Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
    )


def detect(
    levels: Sequence[tuple[Tensor, Tensor]],  # scores [B, H, W, A * K] and deltas [B, H, W, A * 4]
    anchors: Sequence[Tensor],  # [H * W * A, 4]
    num_classes: int,
    lowest_logit: float | None,  # None: the scores are probabilities already
    score_thresh: float,
    topk: int,
    nms_thresh: float,
    limit: int,
    transform: Any,
) -> list[dict[str, Tensor]]:
    """The detections of a batch. On CUDA it waits twice a level, and three times for NMS, for all images together."""
    batch = levels[0][0].shape[0]
    candidates = []
    for (scores, deltas), boxes in zip(levels, anchors):
        num_anchors = scores.shape[3] // num_classes
        _check_level(scores, deltas, boxes, num_classes)
        above = scores > score_thresh if lowest_logit is None else scores >= lowest_logit
        image, y, x, channel = above.nonzero(as_tuple=True)
        score = scores[image, y, x, channel]
        score = score if lowest_logit is None else score.sigmoid()
        best = _best_of_each_image(score, image, batch, topk, score_thresh)
        image, y, x, channel, score = (t[best] for t in (image, y, x, channel, score))
        k, label = channel // num_classes, channel % num_classes
        delta = deltas.unflatten(3, (num_anchors, 4))[image, y, x, k]
        anchor = boxes[(y * scores.shape[2] + x) * num_anchors + k]
        candidates.append((image, transform.apply_deltas(delta, anchor), score, label))
    image, pred_boxes, score, label = (torch.cat(parts) for parts in zip(*candidates))

    # Image and class are one integer, so that one call suppresses within the classes of every image.
    kept = ops.batched_nms(pred_boxes, score, (image << 32) + label, nms_thresh)
    kept = kept[image[kept].argsort(stable=True)]
    counts = image[kept].bincount(minlength=batch).tolist()
    return [
        {"pred_boxes": pred_boxes[rows], "scores": score[rows], "pred_classes": label[rows]}
        for rows in (part[:limit] for part in kept.split(counts))
    ]


def _best_of_each_image(score: Tensor, image: Tensor, batch: int, topk: int, score_thresh: float) -> Tensor:
    """Indices of the ``topk`` best scores above the threshold of each image, by image and then by score."""
    order = score.argsort(descending=True, stable=True)
    owner, within = image[order].sort(stable=True)
    order = order[within]
    first = torch.searchsorted(owner, torch.arange(batch, device=owner.device))
    rank = torch.arange(len(owner), device=owner.device) - first[owner]
    return order[(rank < topk) & (score[order] > score_thresh)]


def _lowest_logit(score_thresh: float, dtype: torch.dtype) -> float:
    """No logit below this has a score above the threshold. The rounding of scores in ``dtype`` is allowed for, as the
    scores themselves are compared afterwards."""
    if score_thresh <= 0:
        return -math.inf
    if score_thresh >= 1:
        return math.inf
    logit = math.log(score_thresh / (1 - score_thresh))
    return logit - torch.finfo(dtype).eps * (8 / (1 - score_thresh) + 2 * abs(logit))


def _check_level(scores: Tensor, deltas: Tensor, anchors: Tensor, num_classes: int) -> None:
    batch, height, width, channels = scores.shape
    num_anchors = channels // num_classes
    if channels != num_anchors * num_classes or list(deltas.shape) != [batch, height, width, num_anchors * 4]:
        raise ValueError(
            f"inference: expected A * {num_classes} channels of logits and A * 4 of deltas on the same grid, "
            f"got {channels} and {deltas.shape[3]}, {[height, width]} and {list(deltas.shape[1:3])}"
        )
    if list(anchors.shape) != [height * width * num_anchors, 4]:
        expected = [height * width * num_anchors, 4]
        raise ValueError(f"inference: expected anchors {expected} of a level, got {list(anchors.shape)}")
