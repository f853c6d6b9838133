"""Which of torchvision's methods are replaced, and by what."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

from retinanet_fast import ops
from retinanet_fast.acceleration import retinanet
from retinanet_fast.acceleration.rebind import box_ops_with_our_nms, rebind

__all__ = ["Replacement", "detection", "replacement_of"]

# Where torchvision defines what its methods look up under these names.
_HOMES = {
    "box_ops": "torchvision.ops.boxes",
    "sigmoid_focal_loss": "torchvision.ops.focal_loss",
    "_box_loss": "torchvision.models.detection._utils",
}


@dataclass(frozen=True)
class Replacement:
    """A method that stands in the place of one of torchvision's, and the op that it calls, for the reader."""

    function: Callable[..., Any]
    op: str
    module: ModuleType  # torchvision's, that the replaced method is in
    names: tuple[str, ...] = ()  # what that module calls by these names is what is replaced

    def obstacle(self) -> str | None:
        """Why torchvision's method must stay: somebody has put another function into its module."""
        for name in self.names:
            if not _is_torchvisions(getattr(self.module, name, None), name):
                return f"{self.module.__name__}.{name} is not torchvision's own"
        return None


def detection() -> Any:
    """``torchvision.models.detection`` if anything has imported it, else None: then no model can be torchvision's."""
    return sys.modules.get("torchvision.models.detection")


def replacement_of(cls: type, name: str) -> Replacement | None:
    """What replaces the method ``name`` of ``cls``, if the class has torchvision's own one."""
    return _replacements().get(getattr(cls, name, None)) if detection() else None


@cache
def _replacements() -> dict[Any, Replacement]:
    """By torchvision's functions."""
    tv = detection()
    r = tv.retinanet
    found: dict[Any, Replacement] = {}

    def add(
        module: Any, owner: str, method: str, op: str, names: tuple[str, ...], function: Any = None
    ) -> None:
        own = getattr(getattr(module, owner), method, None)
        # A method that somebody has put into torchvision's class is not torchvision's.
        if not isinstance(own, FunctionType) or own.__globals__ is not vars(module):
            return
        if function is None:
            if not set(names) <= set(own.__code__.co_names):
                return
            function = rebind(own, {name: values[name] for name in names})
        found[own] = Replacement(function, op, module, names)

    values: dict[str, Any] = {
        "box_ops": box_ops_with_our_nms(sys.modules[_HOMES["box_ops"]]),
        "sigmoid_focal_loss": ops.sigmoid_focal_loss,
    }
    loss_names = ("box_ops", "sigmoid_focal_loss", "_box_loss")
    nms_names = ("box_ops",)
    add(r, "RetinaNet", "compute_loss", "ops.retinanet_loss", loss_names, retinanet.compute_loss)
    add(
        r,
        "RetinaNet",
        "postprocess_detections",
        "ops.retinanet_detect",
        nms_names,
        retinanet.postprocess_detections,
    )
    add(r, "RetinaNetHead", "forward", "levels as they lie, not concatenated", (), retinanet.head_forward)
    add(tv.fcos, "FCOSHead", "compute_loss", "ops.sigmoid_focal_loss", ("sigmoid_focal_loss",))
    add(tv.fcos, "FCOS", "postprocess_detections", "ops.batched_nms", nms_names)
    add(tv.ssd, "SSD", "postprocess_detections", "ops.batched_nms", nms_names)
    add(tv.rpn, "RegionProposalNetwork", "filter_proposals", "ops.batched_nms", nms_names)
    add(tv.roi_heads, "RoIHeads", "postprocess_detections", "ops.batched_nms", nms_names)
    return found


def _is_torchvisions(value: Any, name: str) -> bool:
    home = sys.modules[_HOMES[name]]
    if name != "box_ops":
        return isinstance(value, FunctionType) and value.__globals__ is vars(home)
    return value is home and all(
        getattr(value, function).__globals__ is vars(home) for function in ("box_iou", "nms", "batched_nms")
    )
