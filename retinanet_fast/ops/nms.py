"""Non-maximum suppression."""

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.boxes import check_nms


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: by descending score, a box is kept unless it overlaps a box kept before it by
    ``IoU > iou_threshold``.

    The order is that of a stable descending sort: equal scores keep their input order, and NaN scores come first. This
    is torchvision's order too.

    The IoU is computed in float32 (in float64 for float64 boxes), in :func:`box_iou`'s order of operations, and
    compared with ``iou_threshold`` in float64, on the CPU and on CUDA, so that both keep the same boxes. (On CUDA
    torchvision rounds the threshold to float32.) Boxes without area, whose IoU with each other is 0 / 0, and boxes with
    a NaN corner are kept and suppress nothing.

    Args:
        boxes: ``[N, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels.
        scores: ``[N]``, floating point, on the same device. Of boxes and scores of two dtypes, as autocast leaves them,
            the wider is the one to compute in.
        iou_threshold: any number; below 0 boxes that do not overlap suppress each other too.

    Returns:
        ``[M]`` int64, the indices of the kept boxes by descending score. Not differentiable. On CUDA the call
        synchronises once, to learn M.
        To derivatives of ``torch.func`` the indices are constants.

    Raises:
        ValueError: shapes or devices that do not match.
        TypeError: boxes or scores that are not floating point.
        NotImplementedError: under ``vmap``, where results would differ in length; :func:`padded_batched_nms` pads them.
    """
    return torch.ops.retinanet_fast.nms(boxes, scores, iou_threshold)


@torch.library.register_fake("retinanet_fast::nms")
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    check_nms("nms", boxes, scores)
    count = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(count, dtype=torch.int64)
