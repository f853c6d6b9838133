from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retinanet_fast.reference._common import compute_dtype


def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """The deltas ``(dx, dy, dw, dh)`` that turn ``anchors`` into ``boxes``, both ``[N, 4]`` xyxy.

    ``dx = wx (cx - cx_a) / w_a``, ``dw = ww ln(w / w_a)`` and the same for y and h (R-CNN's box coding,
    https://arxiv.org/abs/1311.2524, appendix C).
    """
    dtype = compute_dtype(boxes, anchors)
    x, y, w, h = center_size(boxes.to(dtype))
    anchor_x, anchor_y, anchor_w, anchor_h = center_size(anchors.to(dtype))
    wx, wy, ww, wh = weights
    dx = wx * (x - anchor_x) / anchor_w
    dy = wy * (y - anchor_y) / anchor_h
    dw = ww * torch.log(w / anchor_w)
    dh = wh * torch.log(h / anchor_h)
    return torch.stack((dx, dy, dw, dh), dim=-1).to(torch.promote_types(boxes.dtype, anchors.dtype))


def center_size(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre x, centre y, width and height of xyxy boxes ``[..., 4]``."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    width, height = x2 - x1, y2 - y1
    return x1 + 0.5 * width, y1 + 0.5 * height, width, height
