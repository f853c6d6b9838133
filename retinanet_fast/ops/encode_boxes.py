"""Regression targets from boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.boxes import check_encode_boxes


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    r"""The deltas that turn anchors into boxes, row by row; :func:`decode_boxes` is the inverse.

    With centres ``(x, y)`` and sides ``(w, h)`` of boxes and anchors (R-CNN's box coding,
    https://arxiv.org/abs/1311.2524, appendix C):

    .. math::

        d_x &= w_x \, (x - x_a) / w_a, \quad d_w = w_w \ln(w / w_a) \\
        d_y &= w_y \, (y - y_a) / h_a, \quad d_h = w_h \ln(h / h_a)

    Args:
        boxes: ``[N, 4]`` floating point, ``(x1, y1, x2, y2)`` in pixels.
        anchors: ``[N, 4]``, on the same device.
        weights: ``(wx, wy, ww, wh)``, none of them 0.

    Returns:
        ``[N, 4]`` deltas ``(dx, dy, dw, dh)`` in the wider of the two dtypes; float16 and bfloat16 are
        computed in float32. A side that is not positive gives ``nan`` or ``inf``, as the formula does.
        Differentiable by boxes and anchors.
        Under ``torch.func``'s transforms and for dual tensors plain PyTorch computes them, with derivatives of any
        order.

    Raises:
        ValueError: shapes that are not ``[N, 4]`` or differ in ``N``, different devices, not four weights.
        TypeError: boxes or anchors that are not floating point.
    """
    return torch.ops.retinanet_fast.encode_boxes(boxes, anchors, weights)


@torch.library.register_fake("retinanet_fast::encode_boxes")
def _(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor:
    check_encode_boxes(boxes, anchors, weights)
    return boxes.new_empty(boxes.shape, dtype=torch.promote_types(boxes.dtype, anchors.dtype))


@torch.library.register_fake("retinanet_fast::encode_boxes_backward")
def _(grad_deltas: Tensor, boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> tuple[Tensor, Tensor]:
    return boxes.new_empty(boxes.shape), anchors.new_empty(anchors.shape)
