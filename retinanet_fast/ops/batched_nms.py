"""Non-maximum suppression, class by class."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    """:func:`nms` among the boxes of each class alone.

    Classes are compared, so the result is exact for any coordinates and any number of classes. (torchvision
    shifts the classes apart in float32, which rounds and can let boxes of two classes overlap; its per-class
    loop, which it takes for many boxes, agrees with this function always.)

    Args:
        boxes: ``[N, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[N]``, of the same dtype and on the same device.
        idxs: ``[N]``, the boxes' classes (or images, or levels): any integers of any integer dtype.
        iou_threshold: as in :func:`nms`.

    Returns:
        ``[M]`` int64, the indices of the kept boxes of all classes by descending score (equal scores: input
        order; NaN first). Not differentiable.

    Raises:
        ValueError: shapes or devices that do not go together.
        TypeError: boxes that are not floating point, scores of another dtype, or idxs that are not integers.
    """
    return torch.ops.retinanet_fast.batched_nms(boxes, scores, idxs, iou_threshold)


@torch.library.register_fake("retinanet_fast::batched_nms")
def _(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor:
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)
