"""mmcv 2's focal losses and NMS (https://github.com/open-mmlab/mmcv, ``mmcv/ops/{focal_loss,nms}.py``) over the ops.

=========================================  =======================================================================
your import, ``from mmcv.ops import ...``  ours, ``from retinanet_fast.compat.mmcv import ...``
=========================================  =======================================================================
``sigmoid_focal_loss, SigmoidFocalLoss``   the same; background is C, as there
``softmax_focal_loss, SoftmaxFocalLoss``   the same
``nms, batched_nms``                       the same; ``nms`` on tensors and numpy arrays
``soft_nms, nms_match``                    the same; ``soft_nms`` is numpy on the CPU, as mmcv's is C++ on the CPU
=========================================  =======================================================================

What differs from the original is in each docstring. Rotated and quadrilateral boxes are not here. mmdetection's
``FocalLoss`` calls ``sigmoid_focal_loss`` with ``reduction="none"`` and weights the rows itself (``avg_factor``).
"""

from retinanet_fast.compat.mmcv.focal_loss import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from retinanet_fast.compat.mmcv.nms import batched_nms, nms, nms_match, soft_nms

__all__ = [
    "SigmoidFocalLoss",
    "SoftmaxFocalLoss",
    "batched_nms",
    "nms",
    "nms_match",
    "sigmoid_focal_loss",
    "soft_nms",
    "softmax_focal_loss",
]
