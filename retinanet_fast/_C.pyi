"""The compiled module: importing it registers the ops; each function is a typed binding of one.

Made by cmake/generate_bindings.py.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

def build_info() -> dict[str, Any]: ...
def release_kept_memory() -> None: ...
def synchronize_errors() -> None: ...
def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, iou_threshold: float) -> Tensor: ...
def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor: ...
def decode_boxes(
    deltas: Tensor,
    anchors: Tensor,
    weights: Sequence[float],
    max_log_scale: float,
    image_size: Sequence[int],
) -> Tensor: ...
def encode_boxes(boxes: Tensor, anchors: Tensor, weights: Sequence[float]) -> Tensor: ...
def match_anchors(
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    gt_boxes: Sequence[Tensor],
    gt_counts: Tensor | None,
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
    match_zero_iou: bool,
) -> Tensor: ...
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor: ...
def retinanet_detect(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    image_sizes: Tensor,
    score_thresh: float,
    class_thresh: Tensor | None,
    topk_candidates: int,
    nms_thresh: float,
    detections_per_img: int,
    box_weights: Sequence[float],
    soft_nms: str,
    soft_nms_sigma: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def retinanet_loss(
    cls_logits: Sequence[Tensor],
    bbox_regression: Sequence[Tensor],
    anchors: Tensor,
    strides: Sequence[int],
    grid_sizes: Sequence[int],
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    gt_counts: Tensor | None,
    alpha: float,
    gamma: float,
    box_loss: str,
    smooth_l1_beta: float,
    box_weights: Sequence[float],
    high_threshold: float,
    low_threshold: float,
    allow_low_quality_matches: bool,
    match_zero_iou: bool,
) -> tuple[Tensor, Tensor]: ...
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    wide_loss: bool = False,
) -> Tensor: ...
def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    alpha: float = 1.0,
    gamma: float = 2.0,
    reduction: str = "mean",
    wide_loss: bool = False,
) -> Tensor: ...
