"""The generalized IoU loss in plain PyTorch, and how box losses are reduced."""

import torch
from torch import Tensor


def giou_loss(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """``1 - GIoU`` of each pair of boxes ``[..., 4]`` xyxy, with ``eps`` added to both divisors.

    ::

        GIoU = inter / (union + eps) - (hull - union) / (hull + eps)
    """
    x1, y1, x2, y2 = boxes1.unbind(dim=-1)
    u1, v1, u2, v2 = boxes2.unbind(dim=-1)
    left, top, right, bottom = (
        torch.maximum(x1, u1),
        torch.maximum(y1, v1),
        torch.minimum(x2, u2),
        torch.minimum(y2, v2),
    )
    overlap = (right > left) & (bottom > top)
    inter = torch.where(overlap, (right - left) * (bottom - top), 0)
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - inter
    width = torch.maximum(x2, u2) - torch.minimum(x1, u1)
    height = torch.maximum(y2, v2) - torch.minimum(y1, v1)
    hull = width * height
    return 1 - (inter / (union + eps) - (hull - union) / (hull + eps))


def reduced(loss: Tensor, reduction: str, name: str) -> Tensor:
    """``loss`` itself, its sum or its mean; the mean of no elements is 0, with a gradient.

    Raises:
        ValueError: another ``reduction``; ``name`` is the function that the message names.
    """
    if reduction == "none":
        return loss
    if reduction == "sum" or (reduction == "mean" and loss.numel() == 0):
        return loss.sum()
    if reduction == "mean":
        return loss.mean()
    raise ValueError(f"{name}: expected reduction 'none', 'mean' or 'sum', got {reduction!r}")
