"""Non-maximum suppression within each class."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.boxes import check_batched_nms


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` within each class.

    Classes are compared, so the result is exact for any coordinates and any number of classes. The order is that of a
    stable descending sort: equal scores keep their input order, and NaN scores come first.

    torchvision does this in two ways. For few boxes (on the CPU up to 1,000) it moves the classes apart in float32,
    which rounds, and can let boxes of two classes overlap where coordinates are negative; where it does neither, it
    returns the same indices in the same order. For more boxes it loops over the classes: it always keeps the same
    boxes, but its last sort is not stable, so that boxes of equal score may be in another order.

    Args:
        boxes: ``[N, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[N]``, floating point, on the same device.
        idxs: ``[N]``, the boxes' classes (or images, or levels): any integers of any integer dtype, or floating point
            numbers, as torchvision takes them. Equal numbers are one class.
        iou_threshold: as in :func:`nms`.

    Returns:
        ``[M]`` int64, the indices of the kept boxes of all classes by descending score. Not differentiable.
        To derivatives of ``torch.func`` the indices are constants.

    Raises:
        ValueError: shapes or devices that do not match.
        TypeError: boxes or scores that are not floating point, or complex idxs.
        NotImplementedError: under ``vmap``, where results would differ in length; :func:`padded_batched_nms` pads them.
    """
    return torch.ops.retinanet_fast.batched_nms(boxes, scores, idxs, iou_threshold)


@torch.library.register_fake("retinanet_fast::batched_nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    check_batched_nms(boxes, scores, idxs)
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)
