"""Defines a benchmark: a named workload, which makes one case, and the check of results before any timing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]


@dataclass(frozen=True)
class Setting:
    """What a run sets for every workload."""

    device: torch.device
    quick: bool = False  # small inputs and few repeats: shows that everything runs; no bar is judged
    most_images: int | None = None  # of a batch, where the rest of it would be the same again (kernel_report)

    def size(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def images(self, count: int) -> int:
        return count if self.most_images is None else min(count, self.most_images)

    def generator(self, seed: int = 0) -> torch.Generator:
        """Inputs are drawn on the CPU, so that every device times the same numbers."""
        return torch.Generator().manual_seed(seed)


@dataclass
class Case:
    """The inputs of one workload on one device, the same for every provider."""

    op: str  # the function's name in each provider
    args: tuple[Any, ...]
    shape: str  # for the reader: "120,087 x 80"
    bytes_moved: int  # the least that any implementation reads and writes
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    leaves: Sequence[Tensor] = ()  # the backward pass computes their gradients; none: forward alone is timed
    grad_output: Tensor | None = None  # for a result that is not a scalar
    logits_bytes: int = 0  # how much "a copy of the logits" copies
    calls: Mapping[str, Call] = field(default_factory=dict)  # by provider, if it is more than one op
    tolerance: float = 1e-4  # of the largest difference, relative to the tensor's largest value
    peer_tolerance: float | None = None  # for torchvision, if it computes in a narrower type
    peer_rows: float = 1.0  # the fraction of values on which torchvision must agree, whose ties are undefined
    checked: bool = True  # False if the twin itself could not finish
    in_turn: bool = (
        False  # rounds of all providers alternate: for calls of seconds that are compared to some percent
    )

    @property
    def gradient_bytes(self) -> int:
        return sum(leaf.numel() * leaf.element_size() for leaf in self.leaves)

    def forward_backward(self, forward: Call) -> Call:
        """`forward` itself, or, if the case has leaves, a call that returns (result, *gradients)."""
        if not self.leaves:
            return forward

        def run() -> tuple[Any, ...]:
            result = forward()
            outputs = list(result.values()) if isinstance(result, dict) else [result]
            grad_outputs = None if self.grad_output is None else [self.grad_output]
            return result, *torch.autograd.grad(outputs, self.leaves, grad_outputs)

        return run


@dataclass(frozen=True)
class Workload:
    """`make` builds the case; `providers` are those that can run it, in the order in which they are shown."""

    name: str
    make: Callable[[Setting], Case]
    providers: tuple[str, ...]
    devices: tuple[str, ...] = ("cpu", "cuda")


EVERYONE = ("ours", "eager", "compile", "torchvision", "torchvision-compile")
NOT_COMPILED = ("ours", "eager", "torchvision")  # loops over boxes, or results of unknown length
NOT_IN_TORCHVISION = ("ours", "eager", "compile")

REGISTRY: dict[str, Workload] = {}


def register(
    name: str,
    make: Callable[..., Case],
    *,
    providers: tuple[str, ...] = EVERYONE,
    devices: tuple[str, ...] = ("cpu", "cuda"),
    **settings: Any,
) -> None:
    """Add a workload; `settings` are further arguments of `make`."""
    if name in REGISTRY:
        raise ValueError(f"workload {name} is registered twice")
    REGISTRY[name] = Workload(name, partial(make, **settings), providers, devices)


def result_tensors(result: Any) -> list[Tensor]:
    """What a provider returns as a flat list of tensors, in an order that all providers share."""
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, dict):
        return [tensor for key in sorted(result) for tensor in result_tensors(result[key])]
    if hasattr(result, "unpack"):  # Detections
        return result_tensors(result.unpack())
    return [tensor for part in result for tensor in result_tensors(part)]


def difference(case: Case, got: Any, want: Any, *, peer: bool = False) -> str | None:
    """How a provider's result differs from the twin's, in words; None if it agrees."""
    got_tensors, want_tensors = result_tensors(got), result_tensors(want)
    if len(got_tensors) != len(want_tensors):
        return f"{len(got_tensors)} result tensors, expected {len(want_tensors)}"
    tolerance = case.peer_tolerance if peer and case.peer_tolerance is not None else case.tolerance
    allowed = 1.0 - case.peer_rows if peer else 0.0
    for index, (a, b) in enumerate(zip(got_tensors, want_tensors, strict=True)):
        problem = _tensor_difference(a.detach(), b.detach(), tolerance, allowed)
        if problem:
            return f"result {index}: {problem}"
    return None


def _tensor_difference(got: Tensor, want: Tensor, tolerance: float, allowed: float) -> str | None:
    if got.shape != want.shape:
        return f"shape {list(got.shape)}, expected {list(want.shape)}"
    if got.numel() == 0:
        return None
    if not want.is_floating_point():
        wrong = got != want
        worst = "indices or labels"
    else:
        scale = want.abs().max().clamp(min=1e-30)
        gap = (got.to(torch.promote_types(torch.float32, want.dtype)) - want).abs_().div_(scale)
        wrong = ~(gap <= tolerance)  # so written, a NaN is wrong
        worst = f"by up to {gap.max().item():.2g} of the largest value, allowed {tolerance:.2g}"
    share = wrong.double().mean().item()
    return f"{share:.2%} of the values differ ({worst})" if share > allowed else None
