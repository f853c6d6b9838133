from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import compute_dtype
from retinanet_fast.reference.encode_boxes import center_size


def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    *,
    max_log_scale: float = math.log(1000 / 16),
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """The xyxy boxes that ``deltas`` turn ``anchors`` into, both ``[N, 4]``: the inverse of ``encode_boxes``.

    ``dw`` and ``dh`` are clamped above at ``max_log_scale``, after the weights. With ``image_size``
    (height, width) the boxes are clipped to the image.
    """
    dtype = compute_dtype(deltas, anchors)
    anchor_x, anchor_y, anchor_w, anchor_h = center_size(anchors.to(dtype))
    dx, dy, dw, dh = (
        delta / weight for delta, weight in zip(deltas.to(dtype).unbind(-1), weights, strict=True)
    )
    x, y = dx * anchor_w + anchor_x, dy * anchor_h + anchor_y
    w = torch.exp(dw.clamp(max=max_log_scale)) * anchor_w
    h = torch.exp(dh.clamp(max=max_log_scale)) * anchor_h
    corners = [x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
    if image_size is not None:
        height, width = image_size
        corners = [
            c.clamp(0, limit) for c, limit in zip(corners, (width, height, width, height), strict=True)
        ]
    return torch.stack(corners, dim=-1).to(torch.promote_types(deltas.dtype, anchors.dtype))
