"""Rules of vmap for ops without a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from retinanet_fast._transforms.decompose import library

Rule = Callable[..., tuple[Any, Any]]


def vmap_rule(op: str) -> Callable[[Rule], Rule]:
    """Registers a function as in ``torch.library.register_vmap``."""

    def register(rule: Rule) -> Rule:
        torch.library.register_vmap(f"retinanet_fast::{op}", rule, lib=library)
        return rule

    return register


def one_by_one(
    op: Callable[..., Any], batch_size: int, in_dims: Sequence[Any], arguments: Sequence[Any]
) -> tuple[Any, Any]:
    """The op's results for each index of the dimensions ``in_dims``, stacked."""
    leaves, structure = pytree.tree_flatten(list(arguments))
    dims = pytree.tree_leaves(list(in_dims))

    def call(index: int) -> Any:
        picked = [
            leaf if dim is None else leaf.select(dim, index) for leaf, dim in zip(leaves, dims, strict=True)
        ]
        return op(*pytree.tree_unflatten(picked, structure))

    results = [call(index) for index in range(batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])
