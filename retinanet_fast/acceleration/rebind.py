"""torchvision's own functions with other values for some of the names that they look up."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any

from retinanet_fast import ops

__all__ = ["box_ops_with_our_nms", "rebind"]


def rebind(function: FunctionType, names: Mapping[str, Any]) -> FunctionType:
    """The function with the same code, for which each global name of ``names`` means the value given there.

    Its module and everything else that uses it are left as they are.
    """
    globals_ = {**function.__globals__, **names}
    # torch.compile looks globals up in the module of this name, where they have their old values.
    del globals_["__name__"]
    code, defaults, closure = function.__code__, function.__defaults__, function.__closure__
    result = FunctionType(code, globals_, function.__name__, defaults, closure)
    result.__kwdefaults__ = function.__kwdefaults__
    for attribute in ("__qualname__", "__module__", "__doc__"):
        setattr(result, attribute, getattr(function, attribute))
    return result


def box_ops_with_our_nms(box_ops: ModuleType) -> ModuleType:
    """A copy of ``torchvision.ops.boxes`` that has our NMS."""
    copied = ModuleType(box_ops.__name__, box_ops.__doc__)
    vars(copied).update({**vars(box_ops), "nms": ops.nms, "batched_nms": ops.batched_nms})
    return copied
