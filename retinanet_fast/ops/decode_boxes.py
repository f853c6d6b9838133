"""Boxes from regression outputs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast import _ext  # noqa: F401  registers the ops
from retinanet_fast._checks.boxes import check_decode_boxes


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    max_log_scale: float = math.log(1000 / 16),
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    r"""The boxes that deltas turn anchors into, row by row: the inverse of :func:`encode_boxes`.

    With centres ``(x, y)`` and sides ``(w, h)`` (R-CNN's box coding, https://arxiv.org/abs/1311.2524,
    appendix C), and m = ``max_log_scale``:

    .. math::

        x &= x_a + w_a \, d_x / w_x, \quad w = w_a \exp(\min(d_w / w_w, m)) \\
        y &= y_a + h_a \, d_y / w_y, \quad h = h_a \exp(\min(d_h / w_h, m))

    Args:
        deltas: ``[N, 4]`` floating point, ``(dx, dy, dw, dh)``.
        anchors: ``[N, 4]`` ``(x1, y1, x2, y2)`` in pixels, on the same device.
        weights: ``(wx, wy, ww, wh)``, none of them 0.
        max_log_scale: upper limit of ``dw / ww`` and ``dh / wh``, so that no box becomes infinite.
        image_size: ``(height, width)`` to clip the boxes to.

    Returns:
        ``[N, 4]`` boxes in the wider of the two dtypes; float16 and bfloat16 are computed in float32. NaN
        deltas give NaN boxes, clipped or not. Differentiable by deltas and anchors. As with ``torch.clamp``, the
        gradient is 0 outside a clamp's range and passes at its ends.
        Under ``torch.func``'s transforms and for dual tensors plain PyTorch computes them, with derivatives of any
        order.

    Raises:
        ValueError: shapes that are not ``[N, 4]`` or differ in ``N``, different devices, not four weights.
        TypeError: deltas or anchors that are not floating point.
    """
    return torch.ops.retinanet_fast.decode_boxes(deltas, anchors, weights, max_log_scale, image_size or ())


@torch.library.register_fake("retinanet_fast::decode_boxes")
def _(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float],
    max_log_scale: float,
    image_size: Sequence[int],
) -> Tensor:
    check_decode_boxes(deltas, anchors, weights, image_size)
    return deltas.new_empty(deltas.shape, dtype=torch.promote_types(deltas.dtype, anchors.dtype))


@torch.library.register_fake("retinanet_fast::decode_boxes_backward")
def _(
    grad_boxes: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float],
    max_log_scale: float,
    image_size: Sequence[int],
) -> tuple[Tensor, Tensor]:
    return deltas.new_empty(deltas.shape), anchors.new_empty(anchors.shape)
