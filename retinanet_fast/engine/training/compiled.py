"""Backbone and head under torch.compile, one graph per padded size and a bounded number of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retinanet_fast.engine.errors import InputError

# As many as torch.compile makes of one function by default (torch._dynamo.config.recompile_limit).
MAX_GRAPHS = 8


def compile_network(model: nn.Module, say: Callable[[str], None], backend: str = "inductor") -> None:
    """Compile ``model.network``, in place, for training; evaluation runs it as it is.

    Transform, matching and loss are kernels of few launches already. Each shape of the batch, number of images and
    padded size, is a graph of its own, since Inductor's graphs of unknown sizes train slower than eager mode (see
    docs/howto/compile.md). After ``MAX_GRAPHS`` of them, batches of other shapes run uncompiled, and a line says so.

    Args:
        say: is told of each graph, which takes up to minutes to make.
        backend: of torch.compile.

    Raises:
        InputError: the model has no ``network``.
    """
    network = getattr(model, "network", None)
    if not callable(network):
        raise InputError(
            f"compile: expected a model with a method network, backbone and head, got {type(model).__name__}"
        )
    model.network = CompiledNetwork(network, say, backend)  # type: ignore[assignment]


class CompiledNetwork:
    """``network``, compiled for the first ``MAX_GRAPHS`` shapes that it is called with while gradients are wanted."""

    def __init__(
        self, network: Callable[[Tensor], Any], say: Callable[[str], None], backend: str = "inductor"
    ) -> None:
        self._network = network
        self._compiled = torch.compile(network, dynamic=False, backend=backend)
        self._say = say
        self._shapes: set[torch.Size] = set()
        self._told = False

    def __call__(self, images: Tensor) -> Any:
        """The network's outputs for a batch ``[B, 3, H, W]``."""
        if not torch.is_grad_enabled():
            return self._network(images)
        if images.shape not in self._shapes:
            text = f"batches [{images.shape[0]}, 3, {images.shape[2]}, {images.shape[3]}]"
            if len(self._shapes) == MAX_GRAPHS:
                if not self._told:
                    self._say(
                        f"compile: all {MAX_GRAPHS} graphs are made; {text}, and of every other new shape, run "
                        "uncompiled; a larger size_divisible, such as 448, makes fewer shapes"
                    )
                    self._told = True
                return self._network(images)
            self._shapes.add(images.shape)
            self._say(f"compile: graph {len(self._shapes)} of at most {MAX_GRAPHS}, for {text}")
        return self._compiled(images)
