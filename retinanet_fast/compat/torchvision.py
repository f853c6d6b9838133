"""torchvision's detection functions over the ops (names and signatures of torchvision 0.29).

- your import: ``from torchvision.ops import sigmoid_focal_loss, nms, batched_nms, box_iou, generalized_box_iou_loss``,
  ``from torchvision.models.detection._utils import BoxCoder, Matcher``
- ours: the same names ``from retinanet_fast.compat.torchvision``

What differs:

- Errors are ``ValueError`` or ``TypeError`` with what was expected, where torchvision raises ``AssertionError`` or
  ``RuntimeError``.
- ``sigmoid_focal_loss``: half types are computed in float32, summed wider, and rounded once; a second derivative
  raises; integer targets are class indices (torchvision takes float targets alone).
- ``batched_nms``: classes are compared, not moved apart, so that it is exact for any coordinates and classes; equal
  scores keep their input order for any number of boxes.
- ``nms``: CUDA compares the IoU with the threshold in float64, as the CPU does. No quantized boxes.
- ``box_iou``: half types are computed in float32 throughout, and differences of unsigned integers do not wrap around.
  No rotated formats.
- ``BoxCoder``: half types are computed in float32 and rounded once, with the boxes as they are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat._box_loss import giou_loss, reduced

__all__ = [
    "BoxCoder",
    "Matcher",
    "batched_nms",
    "box_iou",
    "generalized_box_iou_loss",
    "nms",
    "sigmoid_focal_loss",
]


def sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Tensor:
    """torchvision's ``sigmoid_focal_loss``: :func:`retinanet_fast.ops.sigmoid_focal_loss`.

    Args:
        inputs: logits of any shape.
        targets: float, of the same shape; or, which torchvision has not, class indices (see the op).
        alpha: the weight of targets 1, in [0, 1]; -1: no weights.
        gamma: exponent, not negative.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Returns:
        The losses, or a scalar, in the wider dtype of inputs and targets; under autocast at least float32.

    Raises:
        ValueError, TypeError, IndexError, NotImplementedError: as the op does.
    """
    return ops.sigmoid_focal_loss(inputs, targets, alpha, gamma, reduction)


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's ``nms``: :func:`retinanet_fast.ops.nms`.

    Args:
        boxes: ``[N, 4]``, ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[N]``, of any floating dtype.
        iou_threshold: boxes with ``IoU > iou_threshold`` with a better one are left out.

    Returns:
        ``[M]`` int64, the kept boxes by descending score; equal scores in input order.
    """
    return ops.nms(boxes, scores, iou_threshold)


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """torchvision's ``batched_nms``: :func:`retinanet_fast.ops.batched_nms`.

    Args:
        boxes: ``[N, 4]``, ``(x1, y1, x2, y2)`` in pixels, negative coordinates too.
        scores: ``[N]``.
        idxs: ``[N]``, the boxes' classes, integer or floating point; boxes of different values do not meet.
        iou_threshold: as in :func:`nms`.

    Returns:
        ``[M]`` int64, the kept boxes of all classes by descending score; equal scores in input order.
    """
    return ops.batched_nms(boxes, scores, idxs, iou_threshold)


def box_iou(boxes1: Tensor, boxes2: Tensor, fmt: str = "xyxy") -> Tensor:
    """torchvision's ``box_iou``: :func:`retinanet_fast.ops.box_iou`, with torchvision's formats.

    Args:
        boxes1: ``[..., N, 4]``, floating point or integer.
        boxes2: ``[..., M, 4]``; leading dimensions are broadcast, and computed one after the other.
        fmt: ``"xyxy"``, or ``"xywh"`` or ``"cxcywh"``, which are converted to it first.

    Returns:
        ``[..., N, M]`` float32, or float64 where boxes of that dtype come in. Differentiable.

    Raises:
        ValueError: another format, or shapes that do not match.
    """
    if fmt != "xyxy":
        boxes1, boxes2 = _to_xyxy(boxes1, fmt), _to_xyxy(boxes2, fmt)
    if boxes1.dim() <= 2 and boxes2.dim() <= 2:
        return ops.box_iou(boxes1, boxes2)
    lead = torch.broadcast_shapes(boxes1.shape[:-2], boxes2.shape[:-2])
    rows = [boxes.expand(*lead, *boxes.shape[-2:]).flatten(0, -3) for boxes in (boxes1, boxes2)]
    ious = [ops.box_iou(first, second) for first, second in zip(*rows, strict=True)]
    if not ious:
        dtype = torch.promote_types(torch.promote_types(boxes1.dtype, boxes2.dtype), torch.float32)
        return boxes1.new_empty(*lead, boxes1.shape[-2], boxes2.shape[-2], dtype=dtype)
    return torch.stack(ious).unflatten(0, lead)


def _to_xyxy(boxes: Tensor, fmt: str) -> Tensor:
    if fmt not in ("xywh", "cxcywh"):
        raise ValueError(f"box_iou: expected fmt 'xyxy', 'xywh' or 'cxcywh', got {fmt!r}")
    start, size = boxes[..., :2], boxes[..., 2:]
    if fmt == "cxcywh":
        start = start - size / 2
    return torch.cat([start, start + size], dim=-1)


def generalized_box_iou_loss(
    boxes1: Tensor, boxes2: Tensor, reduction: str = "none", eps: float = 1e-7
) -> Tensor:
    """torchvision's ``generalized_box_iou_loss``, in plain PyTorch: no hot path, it takes foreground boxes alone.

    ``1 - GIoU`` (https://arxiv.org/abs/1902.09630), with ``eps`` added to its divisors. The fused form for a whole
    head is ``ops.retinanet_loss(..., box_loss="giou")``.

    Args:
        boxes1, boxes2: ``[N, 4]`` or ``[4]``, ``(x1, y1, x2, y2)``.
        reduction: ``"none"``, ``"mean"`` (0 of no boxes) or ``"sum"``.
        eps: keeps boxes without area from dividing by 0.

    Returns:
        ``[N]`` losses, or a scalar, in float32 (float64 for float64 boxes). Differentiable any number of times.

    Raises:
        ValueError: another ``reduction``.
    """
    first, second = (
        boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()
        for boxes in (boxes1, boxes2)
    )
    return reduced(giou_loss(first, second, eps), reduction, "generalized_box_iou_loss")


class BoxCoder:
    """torchvision's ``BoxCoder``: boxes to regression deltas and back, over ``ops.encode_boxes`` and ``decode_boxes``.

    Args:
        weights: ``(wx, wy, ww, wh)``, which deltas are multiplied by.
        bbox_xform_clip: upper limit of a decoded ``dw`` and ``dh``.
    """

    def __init__(
        self, weights: tuple[float, float, float, float], bbox_xform_clip: float = math.log(1000.0 / 16)
    ) -> None:
        self.weights = weights
        self.bbox_xform_clip = bbox_xform_clip

    def encode(self, reference_boxes: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The deltas of each image: ``[N_i, 4]`` for ``reference_boxes`` and ``proposals`` of ``[N_i, 4]`` each."""
        deltas = self.encode_single(torch.cat(list(reference_boxes)), torch.cat(list(proposals)))
        return deltas.split([len(boxes) for boxes in reference_boxes])

    def encode_single(self, reference_boxes: Tensor, proposals: Tensor) -> Tensor:
        """``[N, 4]`` deltas that turn ``proposals`` into ``reference_boxes``, in the wider of the two dtypes."""
        return ops.encode_boxes(reference_boxes, proposals, self.weights)

    def decode(self, rel_codes: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The boxes of all images: ``[N, C, 4]`` for deltas of ``N * C * 4`` elements and N boxes in a list per image.

        As in torchvision, no boxes at all leave the shape ``[0, C * 4]`` of the deltas.
        """
        if not isinstance(boxes, list | tuple):
            raise TypeError(
                f"BoxCoder.decode: expected boxes as a list, one [N, 4] per image, got {type(boxes).__name__}"
            )
        if not isinstance(rel_codes, Tensor):
            raise TypeError(
                f"BoxCoder.decode: expected rel_codes as a tensor, got {type(rel_codes).__name__}"
            )
        count = sum(len(b) for b in boxes)
        if count == 0:
            return self.decode_single(rel_codes, torch.cat(boxes))
        return self.decode_single(rel_codes.reshape(count, -1), torch.cat(boxes)).reshape(count, -1, 4)

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """``[N, C * 4]`` boxes of C classes, for deltas of that shape and ``boxes`` ``[N, 4]``; the deltas' dtype.

        Raises:
            ValueError: deltas that are not ``[N, C * 4]``.
        """
        if rel_codes.dim() != 2 or rel_codes.shape[1] % 4 != 0 or len(rel_codes) != len(boxes):
            raise ValueError(
                f"BoxCoder.decode: expected rel_codes [{len(boxes)}, C * 4], got {list(rel_codes.shape)}"
            )
        if not boxes.is_floating_point():
            boxes = boxes.to(rel_codes.dtype)
        classes = rel_codes.shape[1] // 4
        if classes != 1:
            boxes = boxes.repeat_interleave(classes, dim=0)
        decoded = ops.decode_boxes(
            rel_codes.reshape(-1, 4), boxes, self.weights, max_log_scale=self.bbox_xform_clip
        )
        return decoded.to(rel_codes.dtype).reshape(rel_codes.shape)


class Matcher:
    """torchvision's ``Matcher`` on a matrix of qualities, in plain PyTorch.

    It is here for code that has that matrix. :func:`retinanet_fast.ops.match_anchors` gives the same matches from
    anchors and boxes, for a whole batch, and never builds it.

    Args:
        high_threshold: quality from which an element is matched.
        low_threshold: quality below which it is background.
        allow_low_quality_matches: whether elements with a ground truth's best quality are matched below the threshold.

    Raises:
        ValueError: ``low_threshold > high_threshold``.
    """

    BELOW_LOW_THRESHOLD = -1
    BETWEEN_THRESHOLDS = -2

    def __init__(
        self, high_threshold: float, low_threshold: float, allow_low_quality_matches: bool = False
    ) -> None:
        if low_threshold > high_threshold:
            raise ValueError(
                f"Matcher: expected low_threshold <= high_threshold, got {low_threshold} > {high_threshold}"
            )
        self.high_threshold = high_threshold
        self.low_threshold = low_threshold
        self.allow_low_quality_matches = allow_low_quality_matches

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """``[A]`` int64: the row of the best quality, -1 below the low threshold, -2 between the thresholds.

        Args:
            match_quality_matrix: ``[G, A]``, of G ground truths and A elements.

        Raises:
            ValueError: no ground truth or no elements, as torchvision does.
        """
        if match_quality_matrix.numel() == 0:
            missing = "ground truths" if match_quality_matrix.shape[0] == 0 else "elements"
            raise ValueError(
                f"Matcher: expected qualities [G, A] with G and A of at least 1, got"
                f" {list(match_quality_matrix.shape)}: no {missing}"
            )
        best, argbest = match_quality_matrix.max(dim=0)
        matches = argbest.masked_fill(best < self.low_threshold, self.BELOW_LOW_THRESHOLD)
        between = (best >= self.low_threshold) & (best < self.high_threshold)
        matches = matches.masked_fill(between, self.BETWEEN_THRESHOLDS)
        if not self.allow_low_quality_matches:
            return matches
        best_of_gt = match_quality_matrix.max(dim=1, keepdim=True).values
        return torch.where((match_quality_matrix == best_of_gt).any(dim=0), argbest, matches)
