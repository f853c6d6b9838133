"""ultralytics' non-maximum suppression (``ultralytics.utils.nms`` of 8.4.190, and ``labels``, which 8.4.120 has).

- your import: ``from ultralytics.utils.nms import non_max_suppression``
- ours: ``from retinanet_fast.compat.ultralytics import non_max_suppression``

What differs:

- Classes are compared. ultralytics moves each class by ``max_wh`` pixels in float32, which rounds coordinates (by up to
  1/32 px from class 69 on) and lets classes meet where coordinates leave ``[0, max_wh]``; where it does neither, the
  results are equal.
- No time limit: every image is suppressed. ``max_time_img`` and ``max_wh`` have no effect.
- The whole batch is suppressed in one call.
- Equal confidences keep the order of the predictions, also where ``max_nms`` cuts.
- ``rotated=True`` raises ``NotImplementedError``.
- ``labels`` stands where it stands in 8.4.120. 8.4.190 has no such argument: pass ``max_det`` and what follows by
  keyword.
- The prediction is not changed in place (8.4.120 changes it).
- Errors are ``ValueError`` with what was expected. Results of images without detections have the dtype of the others.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast import ops

__all__ = ["non_max_suppression"]


def non_max_suppression(
    prediction: Tensor | Sequence[Tensor],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nc: int = 0,
    max_time_img: float = 0.05,
    max_nms: int = 30000,
    max_wh: int = 7680,
    rotated: bool = False,
    end2end: bool = False,
    return_idxs: bool = False,
) -> list[Tensor] | tuple[list[Tensor], list[Tensor]]:
    """The detections of a batch of YOLO predictions: those above a confidence, suppressed within each class.

    Args:
        prediction: ``[B, 4 + C + E, N]``: boxes ``(x, y, w, h)`` in pixels with their centres, C class confidences, and
            E more channels (mask coefficients, key points). Of a list or tuple, the first element. A last dimension of
            6, as in ultralytics, or ``end2end``: ``[B, N, 6 + E]``, boxes xyxy, confidence, class; these are not
            suppressed.
        conf_thres: detections have a confidence above it, in [0, 1].
        iou_thres: boxes with ``IoU > iou_thres`` with a better one are left out, in [0, 1].
        classes: the classes to keep; all without it.
        agnostic: whether boxes of different classes suppress each other.
        multi_label: whether a box is a detection of each class above ``conf_thres``, not of the best alone.
        labels: for each image ``[L, 5]`` of known boxes, (class, x, y, w, h), that join the predictions with confidence
            1 and zeros in the other channels.
        max_det: the most detections of an image.
        nc: C; 0: all channels after the box.
        max_time_img: no effect.
        max_nms: the most boxes of an image that are suppressed; those of the highest confidence are.
        max_wh: no effect.
        rotated: not supported.
        end2end: see ``prediction``.
        return_idxs: whether to return the indices too.

    Returns:
        One tensor ``[n, 6 + E]`` per image: xyxy box, confidence, class, the E channels, by descending confidence;
        float32 for half predictions. With ``return_idxs`` a tuple of that list and of one int64 tensor ``[n]`` per
        image, the rows' columns in ``prediction`` (rows, for end-to-end predictions). On CUDA the host waits a few
        times for a batch, not for each image.

    Raises:
        ValueError: thresholds outside [0, 1], shapes that do not match, ``labels`` together with ``return_idxs``.
        NotImplementedError: ``rotated``.
    """
    if not isinstance(prediction, Tensor):
        prediction = prediction[0]
    _check(prediction, conf_thres, iou_thres, labels, rotated, return_idxs)
    wanted = None if classes is None else torch.as_tensor(classes, device=prediction.device)
    if prediction.shape[-1] == 6 or end2end:
        output, indices = _end_to_end(prediction, conf_thres, wanted, max_det)
        return (output, indices) if return_idxs else output

    nc = nc or prediction.shape[1] - 4
    if not 0 < nc <= prediction.shape[1] - 4:
        raise ValueError(
            f"non_max_suppression: expected prediction [B, 4 + C + E, N] with 1 <= nc <= C + E, got"
            f" {list(prediction.shape)} and nc {nc}"
        )
    rows, images, columns = _candidates(prediction, conf_thres, nc)
    if any(len(known) for known in labels):
        rows, images = _with_labels(rows, images, labels, nc)
        columns = columns.new_empty(len(rows))  # not asked for
    rows, picked = _detections(rows, conf_thres, nc, multi_label and nc > 1)
    if wanted is not None:
        kept = (rows[:, 5:6] == wanted).any(1).nonzero()[:, 0]
        rows, picked = rows[kept], picked[kept]
    images, columns = images[picked], columns[picked]

    if len(rows) > max_nms:
        best = _best_of_each(images, rows[:, 4].sort(descending=True, stable=True).indices, max_nms)
        rows, images, columns = rows[best], images[best], columns[best]
    groups = images if agnostic else images * nc + rows[:, 5].long()
    kept = ops.batched_nms(rows[:, :4], rows[:, 4], groups, iou_thres)
    kept = _best_of_each(images, kept, max_det)
    counts = torch.bincount(images[kept], minlength=len(prediction)).tolist()
    output = list(rows[kept].split(counts))
    return (output, list(columns[kept].split(counts))) if return_idxs else output


def _candidates(prediction: Tensor, conf_thres: float, nc: int) -> tuple[Tensor, Tensor, Tensor]:
    """The predictions with a class above the threshold: rows ``[M, 4 + C + E]`` with xyxy boxes, image, column."""
    above = prediction[:, 4 : 4 + nc].amax(1) > conf_thres
    images, columns = above.nonzero(as_tuple=True)
    rows = prediction.transpose(-1, -2)[images, columns]
    return torch.cat([_xyxy(rows[:, :4]), rows[:, 4:]], dim=1), images, columns


def _xyxy(boxes: Tensor) -> Tensor:
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([centre - half, centre + half], dim=1)


def _with_labels(rows: Tensor, images: Tensor, labels: Sequence[Tensor], nc: int) -> tuple[Tensor, Tensor]:
    """Rows and their images, with the known boxes of each image after its predictions."""
    counts = torch.tensor([len(known) for known in labels], device=rows.device)
    known = torch.cat([k.to(rows.device) for k in labels])
    added = torch.zeros(len(known), rows.shape[1], device=rows.device)
    added[:, :4] = _xyxy(known[:, 1:5])
    added.scatter_(1, known[:, :1].long() + 4, 1.0)
    rows = torch.cat([rows, added])
    images = torch.cat([images, torch.arange(len(labels), device=rows.device).repeat_interleave(counts)])
    order = images.sort(stable=True).indices
    return rows[order], images[order]


def _detections(rows: Tensor, conf_thres: float, nc: int, multi_label: bool) -> tuple[Tensor, Tensor]:
    """``[n, 6 + E]``: box, confidence, class, more channels; and the row that each comes from."""
    box, confidences, more = rows.split((4, nc, rows.shape[1] - 4 - nc), dim=1)
    if multi_label:
        picked, label = torch.where(confidences > conf_thres)
        confidence = confidences[picked, label]
    else:
        confidence, label = confidences.max(1)
        picked = (confidence > conf_thres).nonzero()[:, 0]
        confidence, label = confidence[picked], label[picked]
    # float32 labels make the row float32, or float64.
    return torch.cat([box[picked], confidence[:, None], label[:, None].float(), more[picked]], dim=1), picked


def _best_of_each(images: Tensor, ranked: Tensor, limit: int) -> Tensor:
    """The first ``limit`` of ``ranked``, indices by descending confidence, of every image, image after image."""
    ranked = ranked[images[ranked].sort(stable=True).indices]
    own = images[ranked]
    first = torch.searchsorted(own, own)  # the position of the image's best
    return ranked[torch.arange(len(own), device=own.device) - first < limit]


def _end_to_end(
    prediction: Tensor, conf_thres: float, wanted: Tensor | None, max_det: int
) -> tuple[list[Tensor], list[Tensor]]:
    above = prediction[..., 4] > conf_thres
    if wanted is not None:
        above &= (prediction[..., 5:6] == wanted).any(-1)
    indices = [mask.nonzero()[:max_det, 0] for mask in above]
    return [rows[index].float() for rows, index in zip(prediction, indices)], indices


def _check(
    prediction: Tensor,
    conf_thres: float,
    iou_thres: float,
    labels: Sequence[Tensor],
    rotated: bool,
    return_idxs: bool,
) -> None:
    name = "non_max_suppression"
    if rotated:
        raise NotImplementedError(f"{name}: expected axis-aligned boxes; rotated=True is not supported")
    if prediction.dim() != 3:
        raise ValueError(f"{name}: expected prediction [B, 4 + C + E, N], got {list(prediction.shape)}")
    for what, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected {what} in [0, 1], got {value}")
    if not isinstance(labels, list | tuple):
        raise ValueError(
            f"{name}: expected labels as a list of tensors, got {type(labels).__name__};"
            " pass max_det and what follows by keyword"
        )
    if labels and len(labels) != len(prediction):
        raise ValueError(f"{name}: expected labels of {len(prediction)} images, got {len(labels)}")
    if labels and return_idxs:
        raise ValueError(f"{name}: expected no labels with return_idxs; they have no index in the prediction")
