"""torchvision's RetinaNet before and after ``retinanet_fast.accelerate``: a training step and an evaluation, by parts.

"ours" is the accelerated model and "torchvision" the same model without acceleration; the check compares their results.

``accelerate/step``         a training step, forward and backward, without an optimizer
``accelerate/loss``         of it, from the outputs of the head's last convolutions to the losses and back to these
                            outputs. The head's permute and concatenate, which vanish, are counted here
``accelerate/compute_loss`` the same from outputs that are concatenated already: nothing that vanishes is counted
``accelerate/rest``         the rest of the step: transform, backbone, head, anchors, and back from the gradients of the
                            outputs
``accelerate/evaluation``   images to detections
``accelerate/postprocess``  of it, from the head's outputs as ``forward`` splits them
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.inputs import ground_truth, nbytes
from benchmarks.workload import Call, Case, Setting, register

IMAGES, CLASSES, BOXES = 2, 91, 20
Model = Any
Outputs = dict[str, Any]


@dataclass
class Inputs:
    """The two models, of equal weights, and what their parts take."""

    before: Model
    after: Model
    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    levels: list[list[Tensor]]  # the outputs of the head's last convolutions: logits, deltas
    anchors: list[Tensor]

    def outputs(self, whole: bool) -> Outputs:
        """The levels as the head of either model returns them; concatenated as torchvision does it if ``whole``."""
        from retinanet_fast.acceleration.head_levels import HeadLevels

        logits, deltas = HeadLevels(self.levels[0], CLASSES), HeadLevels(self.levels[1], 4)
        if whole:
            return {"cls_logits": logits.tensor(), "bbox_regression": deltas.tensor()}
        return {"cls_logits": logits, "bbox_regression": deltas}


@cache
def _inputs(device: torch.device, size: int, training: bool) -> Inputs | None:
    """None without torchvision. The logits are moved to N(-4, 1.5), of which some are above the threshold."""
    try:
        from torchvision.models.detection import retinanet_resnet50_fpn
    except ImportError:
        return None
    from retinanet_fast import accelerate

    torch.manual_seed(0)
    options: dict[str, Any] = {"min_size": size, "max_size": size, "num_classes": CLASSES}
    before: Model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options).to(device)
    before.train(training)
    images = [torch.rand(3, size, size).to(device) for _ in range(IMAGES)]
    boxes = ground_truth(IMAGES, BOXES, size, torch.Generator().manual_seed(0))
    targets = [
        {"boxes": b.to(device), "labels": torch.randint(1, CLASSES, (BOXES,)).to(device)} for b in boxes
    ]
    last = before.head.classification_head.cls_logits
    with torch.no_grad():
        for _ in range(2):  # the first pass sets the spread, the second the mean
            outputs, _ = _head(before, images)
            last.weight *= 1.5 / outputs["cls_logits"].std()
            last.bias += -4 - outputs["cls_logits"].mean()
    after = accelerate(copy.deepcopy(before))
    with torch.no_grad():
        outputs, anchors = _head(after, images)
    levels = [outputs[name].levels for name in ("cls_logits", "bbox_regression")]
    for level in (*levels[0], *levels[1]):
        level.requires_grad_(training)
    return Inputs(before, after, images, targets, levels, anchors)


def _head(model: Model, images: list[Tensor]) -> tuple[Outputs, list[Tensor]]:
    """``RetinaNet.forward`` up to the head's outputs and the anchors."""
    batch, _ = model.transform(images, None)
    features = list(model.backbone(batch.tensors).values())
    return model.head(features), model.anchor_generator(batch, features)


def _case(
    inputs: Inputs | None, shape: str, calls: Callable[[Inputs], tuple[Call, Call]], **settings: Any
) -> Case:
    """Without torchvision no provider can run the case, and it is left out."""
    if inputs is None:
        return Case(op="accelerated", args=(), shape=shape, bytes_moved=0, checked=False)
    ours, theirs = calls(inputs)
    logits, deltas = inputs.levels
    return Case(
        op="accelerated",
        args=(),
        shape=shape,
        bytes_moved=settings.pop("bytes_moved", nbytes(*logits, *deltas)),
        # torchvision's result is what ours is compared with, in the place of an eager twin's.
        calls={"ours": ours, "torchvision": theirs, "eager": theirs},
        in_turn=True,
        **settings,
    )


def _size(setting: Setting) -> tuple[int, str]:
    size = setting.size(512, 128)
    return size, f"ResNet-50, {IMAGES} x {size} px, {CLASSES} classes, {BOXES} boxes per image"


def _gradients(losses: dict[str, Tensor], leaves: Sequence[Tensor]) -> tuple[Any, ...]:
    return losses, *torch.autograd.grad(list(losses.values()), leaves)


def step(setting: Setting) -> Case:
    size, shape = _size(setting)

    def calls(inputs: Inputs) -> tuple[Call, Call]:
        def run(model: Model) -> Any:
            return _gradients(model(inputs.images, inputs.targets), list(model.parameters()))

        return partial(run, inputs.after), partial(run, inputs.before)

    # The gradients of the lowest layers are sums of float32 roundings through 50 layers.
    return _case(_inputs(setting.device, size, True), shape, calls, tolerance=1e-3)


def loss(setting: Setting, *, whole: bool) -> Case:
    size, shape = _size(setting)
    inputs = _inputs(setting.device, size, True)

    def calls(inputs: Inputs) -> tuple[Call, Call]:
        levels = [*inputs.levels[0], *inputs.levels[1]]

        def from_levels(model: Model, concatenate: bool) -> Any:
            losses = model.compute_loss(inputs.targets, inputs.outputs(concatenate), inputs.anchors)
            return _gradients(losses, levels)

        def from_whole(model: Model, outputs: Outputs) -> Any:
            losses = model.compute_loss(inputs.targets, outputs, inputs.anchors)
            return _gradients(losses, list(outputs.values()))

        if not whole:
            return partial(from_levels, inputs.after, False), partial(from_levels, inputs.before, True)
        outputs = {name: output.detach().requires_grad_() for name, output in inputs.outputs(True).items()}
        return partial(from_whole, inputs.after, outputs), partial(from_whole, inputs.before, outputs)

    if inputs is None:
        return _case(None, shape, calls)
    logits, deltas = inputs.levels
    # Read: the logits. Written: their gradient and that of the deltas, which are read at foreground anchors only.
    moved = 2 * nbytes(*logits) + nbytes(*deltas)
    leaves = [*logits, *deltas]
    return _case(inputs, shape, calls, bytes_moved=moved, logits_bytes=nbytes(*logits), leaves=leaves)


def rest(setting: Setting) -> Case:
    size, shape = _size(setting)

    def calls(inputs: Inputs) -> tuple[Call, Call]:
        def run(model: Model, gradients: Sequence[Tensor]) -> Any:
            outputs, _ = _head(model, inputs.images)
            flat = [part for output in outputs.values() for part in getattr(output, "levels", [output])]
            return torch.autograd.grad(flat, list(model.parameters()), gradients)

        levels = [*inputs.levels[0], *inputs.levels[1]]
        losses = inputs.after.compute_loss(inputs.targets, inputs.outputs(False), inputs.anchors)
        of_levels = _gradients(losses, levels)[1:]
        whole = {name: output.detach().requires_grad_() for name, output in inputs.outputs(True).items()}
        of_whole = _gradients(
            inputs.before.compute_loss(inputs.targets, whole, inputs.anchors), list(whole.values())
        )[1:]
        return partial(run, inputs.after, of_levels), partial(run, inputs.before, of_whole)

    return _case(_inputs(setting.device, size, True), shape, calls, tolerance=1e-3)


def evaluation(setting: Setting) -> Case:
    size, shape = _size(setting)

    def calls(inputs: Inputs) -> tuple[Call, Call]:
        @torch.inference_mode()
        def run(model: Model) -> Any:
            return model(inputs.images)

        return partial(run, inputs.after), partial(run, inputs.before)

    return _case(_inputs(setting.device, size, False), shape, calls)


def postprocess(setting: Setting) -> Case:
    size, shape = _size(setting)

    def calls(inputs: Inputs) -> tuple[Call, Call]:
        sizes = [level.shape[1] // 4 * level.shape[2] * level.shape[3] for level in inputs.levels[1]]
        anchors = [list(boxes.split(sizes)) for boxes in inputs.anchors]
        shapes = [(size, size)] * IMAGES

        @torch.inference_mode()
        def run(model: Model, split: Outputs) -> Any:
            return model.postprocess_detections(split, anchors, shapes)

        def split(whole: bool) -> Outputs:
            return {name: list(output.split(sizes, dim=1)) for name, output in inputs.outputs(whole).items()}

        return partial(run, inputs.after, split(False)), partial(run, inputs.before, split(True))

    return _case(_inputs(setting.device, size, False), shape, calls)


PROVIDERS = ("ours", "torchvision")
register("accelerate/step", step, providers=PROVIDERS)
register("accelerate/loss", loss, providers=PROVIDERS, whole=False)
register("accelerate/compute_loss", loss, providers=PROVIDERS, whole=True)
register("accelerate/rest", rest, providers=PROVIDERS)
register("accelerate/evaluation", evaluation, providers=PROVIDERS)
register("accelerate/postprocess", postprocess, providers=PROVIDERS)
