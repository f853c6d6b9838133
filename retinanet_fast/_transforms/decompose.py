"""How an op is replaced under transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from retinanet_fast import _ext  # noqa: F401  registers the ops

_Function = TypeVar("_Function", bound=Callable[..., object])
library = torch.library.Library("retinanet_fast", "IMPL")


def decomposition(op: str) -> Callable[[_Function], _Function]:
    """Registers a function with the arguments of ``op``'s schema as what runs in its place under transforms.

    The dispatch key is the one at which functorch takes a call, with all its wrappers: what the function calls is
    transformed in turn. The ops' own autograd kernels call it for the dual tensors of ``torch.autograd.forward_ad``.
    """

    def register(function: _Function) -> _Function:
        library.impl(op, function, "FuncTorchDynamicLayerFrontMode")
        return function

    return register
