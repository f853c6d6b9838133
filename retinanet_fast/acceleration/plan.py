"""What ``accelerate`` does with each method that it knows of a model: replaces it, or leaves it and says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from retinanet_fast.acceleration.obstacles import detect_obstacle, head_obstacle, loss_obstacle, overridden
from retinanet_fast.acceleration.replacements import detection, replacement_of
from retinanet_fast.acceleration.swap import original_class
from retinanet_fast.models import RetinaNet

__all__ = ["SUPPORTED", "Step", "detectors", "plan"]

SUPPORTED = (
    "RetinaNet, FCOS, SSD and the R-CNNs (Faster, Mask, Keypoint) of torchvision.models.detection, "
    "and retinanet_fast.models.RetinaNet"
)


@dataclass(frozen=True)
class Step:
    """One method of one module. Without ``reason`` it is replaced; with one it is left, or replaced in part."""

    path: str  # of the module in the model; "" is the model itself
    module: nn.Module
    method: str
    op: str | None  # what it runs on then
    reason: str | None = None  # why not, or not wholly
    ours: bool = False  # of retinanet_fast.models: there is nothing to replace

    @property
    def replaced(self) -> bool:
        return self.op is not None

    @property
    def name(self) -> str:
        return f"{self.path or 'model'}: {type(self.module).__name__}.{self.method}"


def plan(model: nn.Module) -> list[Step]:
    """The steps for every detector in ``model``; none if there is no detector.

    Classes that ``accelerate`` has given to modules count as their own ones, so that the plan is the same afterwards.
    """
    steps: dict[tuple[int, str], Step] = {}
    for path, module in model.named_modules():
        for step in _steps(path, module):
            steps.setdefault((id(step.module), step.method), step)
    return list(steps.values())


def detectors(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that are called with images and targets, with their paths."""
    tv = detection()
    if tv is None:
        return []
    kinds = (tv.RetinaNet, tv.FCOS, tv.ssd.SSD, tv.generalized_rcnn.GeneralizedRCNN)
    return [(path, module) for path, module in model.named_modules() if isinstance(module, kinds)]


def _steps(path: str, module: Any) -> Iterator[Step]:
    if isinstance(module, RetinaNet):
        yield Step(path, module, "forward", None, "it is on the ops already", ours=True)
        return
    tv = detection()
    if tv is None:
        return
    if isinstance(module, tv.RetinaNet):
        yield from _retinanet(path, module)
    elif isinstance(module, tv.FCOS):
        yield _step(path, module, "postprocess_detections")
        yield _step(_join(path, "head"), module.head, "compute_loss")
    elif isinstance(module, tv.ssd.SSD):
        yield _step(path, module, "postprocess_detections")
    elif isinstance(module, tv.generalized_rcnn.GeneralizedRCNN):
        yield _step(_join(path, "rpn"), module.rpn, "filter_proposals")
        yield _step(_join(path, "roi_heads"), module.roi_heads, "postprocess_detections")
    elif isinstance(module, tv.rpn.RegionProposalNetwork):
        yield _step(path, module, "filter_proposals")
    elif isinstance(module, tv.roi_heads.RoIHeads):
        yield _step(path, module, "postprocess_detections")


def _retinanet(path: str, model: Any) -> Iterator[Step]:
    loss = _step(path, model, "compute_loss")
    if loss.replaced and (obstacle := loss_obstacle(model)):
        loss = Step(path, model, "compute_loss", None, obstacle)
    detect = _step(path, model, "postprocess_detections")
    wholly = detect.replaced
    if detect.replaced and (obstacle := detect_obstacle(model)):
        wholly = False
        detect = Step(path, model, detect.method, "torchvision's code with ops.batched_nms", obstacle)
    yield from (loss, detect)

    where, head = _join(path, "head"), model.head
    forward = _step(where, head, "forward")
    if forward.replaced:
        reason = head_obstacle(head)
        if overridden(model, "forward", detection().RetinaNet):
            reason = (
                f"the model, a {type(model).__name__}, has its own forward, which may read the head's outputs"
            )
        elif not (loss.replaced and wholly):
            reason = "compute_loss or postprocess_detections takes the concatenated outputs"
        if reason is not None:
            forward = Step(where, head, "forward", None, reason)
    yield forward


def _step(path: str, module: nn.Module, method: str) -> Step:
    cls = original_class(type(module))
    if method in vars(module):
        return Step(path, module, method, None, "was set on the instance")
    replacement = replacement_of(cls, method)
    if replacement is None:
        return Step(path, module, method, None, f"{_definer(cls, method)} is not torchvision's own")
    if obstacle := replacement.obstacle():
        return Step(path, module, method, None, obstacle)
    return Step(path, module, method, replacement.op)


def _definer(cls: type, method: str) -> str:
    owner = next((base for base in cls.__mro__ if method in vars(base)), cls)
    return f"{owner.__name__}.{method}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
