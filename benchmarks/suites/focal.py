"""Focal losses: forward and backward over a batch's logits."""

from __future__ import annotations

import torch

from benchmarks.inputs import nbytes
from benchmarks.workload import EVERYONE, NOT_COMPILED, NOT_IN_TORCHVISION, Case, Setting, register

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # an ulp or two, or fp32's sum
PEER_TOLERANCE = {
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}  # torchvision rounds each step


def sigmoid_focal(
    setting: Setting, *, images: int, dtype: torch.dtype, reduction: str, float_targets: bool
) -> Case:
    """One image at 800 px has 120,087 anchors; about one in 200 is foreground."""
    rows, classes = setting.images(images) * setting.size(120_087, 1_201), 80
    generator = setting.generator()
    logits = (torch.randn(rows, classes, generator=generator) - 4).to(setting.device, dtype)
    logits.requires_grad_()
    labels = torch.randint(classes, (rows,), generator=generator)
    labels[torch.rand(rows, generator=generator) > 0.005] = -1
    labels = labels.to(setting.device)
    targets = labels
    if float_targets:
        targets = torch.zeros_like(logits, requires_grad=False)
        targets[labels >= 0, labels[labels >= 0]] = 1
    # Read: logits. Written: gradient. Unreduced: also the loss written, and its gradient and the logits read.
    passes = 5 if reduction == "none" else 2
    return Case(
        op="sigmoid_focal_loss",
        args=(logits, targets),
        kwargs={"reduction": reduction},
        shape=f"{rows:,} x {classes}",
        bytes_moved=passes * nbytes(logits) + nbytes(targets),
        leaves=[logits],
        grad_output=torch.ones_like(logits) if reduction == "none" else None,
        logits_bytes=nbytes(logits),
        tolerance=TOLERANCE[dtype],
        peer_tolerance=PEER_TOLERANCE[dtype],
    )


def softmax_focal(setting: Setting) -> Case:
    rows, classes = setting.size(120_087, 1_201), 81
    generator = setting.generator()
    logits = torch.randn(rows, classes, generator=generator).to(setting.device).requires_grad_()
    labels = torch.randint(classes, (rows,), generator=generator).to(setting.device)
    return Case(
        op="softmax_focal_loss",
        args=(logits, labels),
        shape=f"{rows:,} x {classes}",
        bytes_moved=2 * nbytes(logits) + nbytes(labels),
        leaves=[logits],
        logits_bytes=nbytes(logits),
    )


def add(
    name: str,
    reduction: str,
    *,
    dtype: torch.dtype = torch.float32,
    images: int = 1,
    float_targets: bool = False,
    providers: tuple[str, ...] = EVERYONE,
    devices: tuple[str, ...] = ("cpu", "cuda"),
) -> None:
    register(
        name,
        sigmoid_focal,
        providers=providers,
        devices=devices,
        dtype=dtype,
        images=images,
        float_targets=float_targets,
        reduction=reduction,
    )


add("focal/int/fp32/sum", "sum")
add("focal/float/fp32/sum", "sum", float_targets=True)
for reduction in ("mean", "none"):
    add(f"focal/int/fp32/{reduction}", reduction, providers=NOT_COMPILED)
# The mean, since torchvision sums a half type in that type, and the sum is beyond float16's largest value.
add("focal/int/fp16/mean", "mean", dtype=torch.float16, providers=NOT_COMPILED)
add("focal/int/bf16/mean", "mean", dtype=torch.bfloat16, providers=NOT_COMPILED)
add("focal/int/fp32/sum/16-images", "sum", images=16, devices=("cuda",))
add("focal/int/bf16/sum/16-images", "sum", images=16, dtype=torch.bfloat16, devices=("cuda",))
register("softmax_focal/fp32/mean", softmax_focal, providers=NOT_IN_TORCHVISION)
