"""``accelerate``: torchvision's detectors on the ops, as they are, without another model or other weights."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from retinanet_fast.acceleration.plan import Step, detectors
from retinanet_fast.acceleration.report import Report, make_report, steps_or_error
from retinanet_fast.acceleration.swap import restore, swap
from retinanet_fast.acceleration.verify import Difference, Results, compare, parse_batch, results

__all__ = ["Report", "accelerate", "report"]

Module = TypeVar("Module", bound=nn.Module)

# By detector: what the last ``verify`` found. Not an attribute of the model, so that nothing of it is saved with it.
_DIFFERENCES: WeakKeyDictionary[nn.Module, list[Difference]] = WeakKeyDictionary()


def __dir__() -> list[str]:
    return sorted(__all__)


def accelerate(model: Module, verify: Any = None, undo: bool = False) -> Module:
    """Let the torchvision detectors in ``model`` compute losses and detections with :mod:`retinanet_fast.ops`.

    ``model`` is, or contains (in DistributedDataParallel, ``torch.compile`` or a Lightning module), one or more of
    torchvision's

    * RetinaNet: ``compute_loss`` by ``ops.retinanet_loss``, ``postprocess_detections`` by ``ops.retinanet_detect``, and
      between the head and these no permuted or concatenated outputs;
    * FCOS: the focal loss and NMS; SSD: NMS; Faster, Mask and Keypoint R-CNN: NMS of proposals and of detections.

    The same object is returned, with the same parameters, state dict and results. Fine-tuned models, other backbones,
    heads and anchor generators are kept: the model's attributes are read when it runs. A method is replaced only where
    it is torchvision's own. One that is overridden, in a class or on an instance, is left as it is, and a warning names
    it. Only the modules of ``model`` are changed, by giving them subclasses of their own classes; torchvision and other
    models are not. Copies, pickles and ``torch.save`` of an accelerated model are accelerated too, and need this
    package to be loaded; a state dict does not.

    Differences: a second derivative of the losses raises ``NotImplementedError``. Losses are computed in at least
    float32. Detections from half types, also under autocast, are float32: in bfloat16, torchvision's boxes are up to
    4 pixels off at 1,000. Where gradients are recorded in evaluation, detections come from torchvision's code, with a
    warning. A label outside the classes raises ``IndexError``, a negative one too. ``torch.jit.script`` and ONNX
    export need the model without acceleration.

    ::

        model = torchvision.models.detection.retinanet_resnet50_fpn(weights="DEFAULT")
        retinanet_fast.accelerate(model, verify=(images, targets))

    Args:
        model: anything that is, or contains, such a detector. One of :mod:`retinanet_fast.models` has nothing to
            replace.
        verify: a batch, ``(images, targets)`` or images alone, as the detector takes it. It is run before and after,
            in training (losses, the gradient of every parameter) and in evaluation, without a trace in parameters,
            buffers, modes or random states. The report is printed.
        undo: give the model back its own methods instead. Both ways, doing it twice is doing it once.

    Returns:
        ``model``. :func:`retinanet_fast.acceleration.report` says what was replaced.

    Raises:
        TypeError: no detector was found.
        ValueError: ``verify`` is no batch, or found a difference above its tolerance. In the second case the model then
            has its own methods.
    """
    steps = steps_or_error(model)
    if undo:
        if verify is not None:
            raise ValueError("accelerate: expected no verify with undo=True; there is nothing to compare")
        _restore(model, steps)
        return model
    batch = None if verify is None else parse_batch(verify)
    _restore(model, steps)
    if batch is None:
        _replace(steps)
    else:
        _replace_verified(model, steps, *batch)
    _warn_of(steps)
    return model


def report(model: nn.Module) -> Report:
    """What is replaced in ``model`` at this moment, what is not and why, and what the last ``verify`` found.

    Raises:
        TypeError: no detector was found.
    """
    found = [difference for _, module in detectors(model) for difference in _DIFFERENCES.get(module, [])]
    return make_report(steps_or_error(model), found)


def _replace(steps: list[Step]) -> None:
    by_module: dict[nn.Module, list[str]] = {}
    for step in steps:
        if step.replaced:
            by_module.setdefault(step.module, []).append(step.method)
    for module, methods in by_module.items():
        swap(module, methods)


def _restore(model: nn.Module, steps: list[Step]) -> None:
    for step in steps:
        restore(step.module)
    for _, module in detectors(model):
        _DIFFERENCES.pop(module, None)


def _replace_verified(model: nn.Module, steps: list[Step], images: list[Tensor], targets: Any) -> None:
    found = detectors(model)
    before = _results(found, images, targets)
    _replace(steps)
    try:
        after = _results(found, images, targets)
        for (path, module), got, want in zip(found, after, before, strict=True):
            _DIFFERENCES[module] = compare(path, got, want)
    except BaseException:
        _restore(model, steps)
        raise
    result = report(model)
    if any(difference.exceeds for difference in result.differences):
        _restore(model, steps)
        raise ValueError(
            f"accelerate: expected the results of before, got others; the model has its own methods.\n{result}"
        )
    print(result)


def _results(found: list[tuple[str, nn.Module]], images: Any, targets: Any) -> list[Results]:
    return [results(module, images, targets) for _, module in found]


def _warn_of(steps: list[Step]) -> None:
    lines = [f"  {step.name}: {step.reason}" for step in steps if step.reason is not None and not step.ours]
    if lines:
        warnings.warn(
            "retinanet_fast.accelerate leaves the code of torchvision, or the model's own, in:\n"
            + "\n".join(lines),
            stacklevel=3,
        )
