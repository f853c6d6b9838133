"""mmcv's NMS, on tensors and numpy arrays."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from retinanet_fast import ops
from retinanet_fast.compat.mmcv._soft_nms import METHODS, soft_nms_loop

# Of nms_cfg, besides type, class_agnostic, split_thr and iou_thr.
KNOWN_SETTINGS = {
    "nms": ("iou_threshold", "offset", "score_threshold", "max_num"),
    "soft_nms": ("iou_threshold", "sigma", "min_score", "method", "offset", "max_num"),
}

Array = TypeVar("Array", Tensor, np.ndarray)
Function = TypeVar("Function", bound=Callable[..., Any])


def _accepts_iou_thr(function: Function) -> Function:
    """``iou_thr`` is mmcv's older name of ``iou_threshold``, and still accepted with a warning."""

    @functools.wraps(function)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        if "iou_thr" in kwargs:
            message = f'"iou_thr" is deprecated in `{function.__name__}`, please use "iou_threshold" instead'
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            kwargs["iou_threshold"] = kwargs.pop("iou_thr")
        return function(*args, **kwargs)

    return renamed  # type: ignore[return-value]


@_accepts_iou_thr
def nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> tuple[Array, Array]:
    """``mmcv.ops.nms`` by :func:`retinanet_fast.ops.nms`.

    What differs: equal scores keep their input order, which mmcv leaves open. On CUDA mmcv compares
    ``inter > threshold * union``; here both devices compare the quotient, as mmcv's CPU code does. With ``offset=1``
    the corner ``(x2, y2)`` is moved by one pixel, which is exact where ``x2 + 1`` is a float32: for whole pixels up to
    2^24, and for eighths of a pixel up to 2^21; elsewhere the IoU may differ in its last digits. float16, bfloat16 and
    float64 boxes are accepted, too.

    Args:
        boxes: ``[N, 4]``, xyxy in pixels; a tensor or a numpy array.
        scores: ``[N]``.
        iou_threshold: boxes that overlap a better one by more are dropped. Rounded to float32, as mmcv does
            (not for float64 boxes). ``iou_thr`` is accepted, too.
        offset: 0 or 1: sides are ``x2 - x1 + offset``.
        score_threshold: if greater than 0, only scores above it take part.
        max_num: if greater than 0, the most boxes that are kept.

    Returns:
        ``(dets, inds)``: ``[M, 5]`` boxes with their scores, best first, and their int64 indices; numpy arrays where
        ``boxes`` is one. ``dets`` is differentiable by boxes and scores.
    """
    box_tensor, score_tensor = _as_tensor(boxes), _as_tensor(scores)
    _check("nms", box_tensor, score_tensor, offset)
    kept = _nms_indices(box_tensor, score_tensor, None, iou_threshold, offset, score_threshold, max_num)
    dets = torch.cat((box_tensor[kept], score_tensor[kept].reshape(-1, 1)), dim=1)
    return _like(boxes, dets), _like(boxes, kept)


@_accepts_iou_thr
def soft_nms(
    boxes: Array,
    scores: Array,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Array, Array]:
    """``mmcv.ops.soft_nms`` (Bodla et al., https://arxiv.org/abs/1704.04503).

    A loop of numpy on the CPU, on whatever device the boxes are, as mmcv's C++ is one on the CPU; no kernel of this
    package is behind it. ``ops.retinanet_detect(soft_nms=...)`` has one for a detector's own outputs.

    Each selected box, best first, multiplies the scores of the others by 0 ("naive") or ``1 - IoU`` ("linear") where
    ``IoU >= iou_threshold``, or by ``exp(-IoU^2 / sigma)`` ("gaussian"); a score below ``min_score`` is dropped. Equal
    scores are selected in mmcv's order.

    What differs: the IoU of two boxes without area is 0; in mmcv it is NaN, and so becomes the score with "gaussian".

    Returns:
        ``(dets, inds)``: ``[M, 5]`` boxes with their new scores in the order of selection, and their int64 indices.
        Not differentiable.
    """
    box_tensor, score_tensor = _as_tensor(boxes), _as_tensor(scores)
    _check("soft_nms", box_tensor, score_tensor, offset)
    dets, kept = _soft_nms(box_tensor, score_tensor, None, iou_threshold, sigma, min_score, method, offset)
    return _like(boxes, dets), _like(boxes, kept)


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    idxs: Tensor,
    nms_cfg: Mapping[str, Any] | None,
    class_agnostic: bool = False,
) -> tuple[Tensor, Tensor]:
    """``mmcv.ops.batched_nms`` by :func:`retinanet_fast.ops.batched_nms`: NMS within each class.

    What differs: classes are compared, where mmcv moves them apart in float32, which rounds coordinates and lets
    classes overlap where coordinates are negative. No boxes give no detections; mmcv raises an error. ``split_thr`` is
    accepted and not needed: the result does not depend on it (from ``split_thr`` boxes on, mmcv goes class by class
    even with ``class_agnostic``). ``max_num`` works with ``soft_nms``, too.

    Args:
        boxes: ``[N, 4]``. Rotated boxes ``[N, 5]`` are an error.
        scores: ``[N]``.
        idxs: ``[N]``, the classes, of any dtype.
        nms_cfg: ``type`` (``"nms"`` by default, or ``"soft_nms"``), ``class_agnostic``, ``split_thr`` and the arguments
            of that function: ``iou_threshold`` or ``iou_thr``, ``max_num``, ... None: no NMS, only the sort by score.
        class_agnostic: whether boxes of different classes suppress each other.

    Returns:
        ``(dets, keep)``: ``[M, 5]`` boxes with their scores, best first, and their int64 indices.
    """
    if boxes.dim() == 2 and boxes.shape[1] == 5:
        raise ValueError(
            f"batched_nms: expected boxes [N, 4], got {list(boxes.shape)}; rotated boxes are not supported here, "
            "use mmcv.ops.batched_nms for them"
        )
    _check("batched_nms", boxes, scores, 0)
    if idxs.shape != scores.shape:
        raise ValueError(f"batched_nms: expected idxs {list(scores.shape)}, got {list(idxs.shape)}")
    if nms_cfg is None:
        scores, kept = scores.sort(descending=True, stable=True)
        return torch.cat((boxes[kept], scores[:, None]), dim=-1), kept

    settings = dict(nms_cfg)
    classes = None if settings.pop("class_agnostic", class_agnostic) else idxs
    settings.pop("split_thr", None)
    if "iou_thr" in settings:
        settings["iou_threshold"] = settings.pop("iou_thr")
    kind = settings.pop("type", "nms")
    if unknown := sorted(settings.keys() - KNOWN_SETTINGS.get(kind, settings.keys())):
        raise TypeError(
            f"batched_nms: expected nms_cfg with {', '.join(KNOWN_SETTINGS[kind])}, got {unknown[0]}"
        )
    if kind == "nms":
        kept = _nms_indices(boxes, scores, classes, **settings)
        return torch.cat((boxes[kept], scores[kept][:, None]), dim=-1), kept
    if kind == "soft_nms":
        max_num = settings.pop("max_num", -1)
        dets, kept = _soft_nms(boxes, scores, classes, **settings)
        if max_num > 0:
            dets, kept = dets[:max_num], kept[:max_num]
        return torch.cat((boxes[kept], dets[:, 4:]), dim=-1), kept
    raise ValueError(f'batched_nms: expected nms_cfg type "nms" or "soft_nms", got {kind!r}')


def nms_match(dets: Array, iou_threshold: float) -> list[Array]:
    """``mmcv.ops.nms_match``: the groups of boxes that NMS makes, each the indices of a kept box and of those that it
    suppressed (``IoU >= iou_threshold``), by descending score.

    Args:
        dets: ``[N, 5]``, boxes and scores; a tensor or a numpy array.
        iou_threshold: rounded to float32.

    Returns:
        A list of int64 tensors or arrays, best group first.
    """
    if dets.shape[0] == 0:
        return []
    if dets.ndim != 2 or dets.shape[1] != 5:
        raise ValueError(f"nms_match: expected dets [N, 5], got {list(dets.shape)}")
    table = _as_tensor(dets).detach()
    boxes, scores = table[:, :4], table[:, 4]
    # The float before the threshold turns ops.nms's > into >=.
    below = float(np.nextafter(np.float32(iou_threshold), np.float32(-np.inf)))
    kept = ops.nms(boxes, scores, below)
    order = scores.argsort(descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    suppressed = order[~torch.isin(order, kept)]
    # Its group is that of the first kept box before it that overlaps it.
    overlaps = ops.box_iou(boxes[kept], boxes[suppressed]) > below
    before = rank[kept][:, None] < rank[suppressed]
    group = (overlaps & before).int().argmax(dim=0) if len(suppressed) else suppressed
    members, owner = suppressed.tolist(), group.tolist()
    groups = [[index] for index in kept.tolist()]
    for index, place in zip(members, owner):
        groups[place].append(index)
    return [_like(dets, torch.tensor(indices, device=table.device)) for indices in groups]


def _nms_indices(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None,
    iou_threshold: float,
    offset: int = 0,
    score_threshold: float = 0,
    max_num: int = -1,
) -> Tensor:
    candidates = None
    if score_threshold > 0:
        candidates = (scores > score_threshold).nonzero().squeeze(1)
        boxes, scores = boxes[candidates], scores[candidates]
        classes = classes[candidates] if classes is not None else None
    if offset:
        boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
    threshold = float(iou_threshold if boxes.dtype == torch.float64 else np.float32(iou_threshold))
    if classes is not None:
        kept = ops.batched_nms(boxes, scores, classes, threshold)
    else:
        kept = ops.nms(boxes, scores, threshold)
    kept = kept[:max_num] if max_num > 0 else kept
    return kept if candidates is None else candidates[kept]


def _soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor | None,
    iou_threshold: float = 0.3,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    method: str = "linear",
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    if method not in METHODS:
        raise ValueError(f"soft_nms: expected method one of {METHODS}, got {method!r}")
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    dets, kept = soft_nms_loop(
        boxes.detach().to("cpu", dtype).numpy(),
        scores.detach().to("cpu", dtype).numpy(),
        None if classes is None else classes.cpu().numpy(),
        iou_threshold,
        sigma,
        min_score,
        method,
        offset,
    )
    device = boxes.device
    return torch.from_numpy(dets).to(device, boxes.dtype), torch.from_numpy(kept).to(device)


def _as_tensor(array: Array) -> Tensor:
    if isinstance(array, np.ndarray):
        return torch.from_numpy(array)
    if not isinstance(array, Tensor):
        raise TypeError(f"nms: expected tensors or numpy arrays, got {type(array).__name__}")
    return array


def _like(example: Array, result: Tensor) -> Array:
    return result.cpu().numpy() if isinstance(example, np.ndarray) else result


def _check(name: str, boxes: Tensor, scores: Tensor, offset: int) -> None:
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{name}: expected boxes [N, 4], got {list(boxes.shape)}")
    if scores.shape != boxes.shape[:1]:
        raise ValueError(f"{name}: expected scores [{boxes.shape[0]}], got {list(scores.shape)}")
    if offset not in (0, 1):
        raise ValueError(f"{name}: expected offset 0 or 1, got {offset}")
