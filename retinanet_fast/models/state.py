"""Weights for the models: where they may come from, and the names they may carry."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = ["StateSource", "WeightsEnum", "load_state", "rename_old_keys"]


class WeightsEnum(Protocol):
    """A member of one of torchvision's weights enums."""

    def get_state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The state dict, downloaded where it is not cached."""
        ...


# A state dict, the path of a file that holds one, or a torchvision weights enum member.
StateSource = Mapping[str, Tensor] | str | os.PathLike[str] | WeightsEnum


def load_state(source: StateSource, progress: bool = True) -> dict[str, Tensor]:
    """The state dict of ``source``; only an enum member downloads, and files load with ``weights_only``."""
    if isinstance(source, Mapping):
        state: Mapping[str, Any] = source
    elif isinstance(source, (str, os.PathLike)):
        if not os.path.isfile(source):
            raise FileNotFoundError(f"expected the path of a state dict, found no file {os.fspath(source)!r}")
        state = torch.load(source, map_location="cpu", weights_only=True)
    else:
        state = source.get_state_dict(progress=progress, check_hash=True)
    nested = state.get("model")
    return dict(nested if isinstance(nested, Mapping) else state)


# Before torchvision 0.13 convolutions with an activation or a norm behind them lay one level higher, in the
# head's towers with the activations counted between them. Its published RetinaNet v1 weights are named so.
_OLD_TOWER = re.compile(r"(.*head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)")
_OLD_FPN = re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")


def rename_old_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Give old entries of ``state_dict`` today's names, in place; a hook for ``load_state_dict``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        if tower := _OLD_TOWER.fullmatch(key):
            name, index, kind = tower.groups()
            state_dict[f"{name}.{int(index) // 2}.0.{kind}"] = state_dict.pop(key)
        elif fpn := _OLD_FPN.fullmatch(key):
            name, kind = fpn.groups()
            state_dict[f"{name}.0.{kind}"] = state_dict.pop(key)
