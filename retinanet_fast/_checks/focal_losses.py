"""The checks of both focal losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retinanet_fast._checks.arguments import (
    check_floating,
    check_focal,
    check_gamma,
    check_labels,
    check_reduction,
    check_same_device,
    check_shape,
    check_type,
    check_value,
    shape,
)


def check_sigmoid_focal_loss(
    inputs: Tensor, targets: Tensor, alpha: float, gamma: float, reduction: str
) -> None:
    op = "sigmoid_focal_loss"
    check_reduction(op, reduction)
    check_floating(op, "inputs", inputs)
    check_focal(op, alpha, gamma)
    check_same_device(op, "targets", targets, inputs)
    if targets.is_floating_point():
        check_shape(
            targets,
            inputs.shape,
            lambda: (
                f"{op}: expected float targets of the inputs' shape {shape(inputs)}, got {shape(targets)}"
            ),
        )
        check_floating(op, "targets", targets)
        return
    check_type(
        targets.dtype in (torch.int64, torch.int32),
        lambda: f"{op}: expected targets of a floating point dtype, int64 or int32, got {targets.dtype}",
    )

    def message() -> str:
        one_hot = (
            "; one-hot targets are floating point: targets.float()" if targets.dim() == inputs.dim() else ""
        )
        return (
            f"{op}: expected integer targets of shape inputs.shape[:-1] with inputs {shape(inputs)}, "
            f"got {shape(targets)}{one_hot}"
        )

    check_value(inputs.dim() >= 1, message)
    check_shape(targets, inputs.shape[:-1], message)


def check_softmax_focal_loss(
    inputs: Tensor, targets: Tensor, class_weights: Tensor | None, alpha: float, gamma: float, reduction: str
) -> None:
    op = "softmax_focal_loss"
    check_reduction(op, reduction)
    check_floating(op, "inputs", inputs)
    check_value(inputs.dim() == 2, lambda: f"{op}: expected inputs [N, C], got {shape(inputs)}")
    check_labels(op, "targets", targets)
    check_shape(
        targets,
        inputs.shape[:1],
        lambda: f"{op}: expected targets [{inputs.shape[0]}], got {shape(targets)}",
    )
    check_same_device(op, "targets", targets, inputs)
    check_value(
        math.isfinite(alpha) and alpha >= 0, lambda: f"{op}: expected a finite alpha >= 0, got {alpha}"
    )
    check_gamma(op, gamma)
    if class_weights is None:
        return
    found = shape(class_weights)
    check_shape(
        class_weights,
        inputs.shape[1:],
        lambda: (
            f"{op}: expected alpha to be a number or one weight per class, [{inputs.shape[1]}], got {found}"
        ),
    )
    check_same_device(op, "alpha", class_weights, inputs)
