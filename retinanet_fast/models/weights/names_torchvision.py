"""The names that torchvision's RetinaNet had before version 0.13, which its published v1 weights still have.

Convolutions followed by an activation or a norm were one level higher, and in the head's towers the activations
between them were counted.
"""

from __future__ import annotations

import re
from typing import Any

from torch import nn

__all__ = ["rename_old_keys", "todays_name"]

_OLD_TOWER = re.compile(r"(.*head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)")
_OLD_FPN = re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")


def rename_old_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Give old entries of ``state_dict`` today's names, in place; a hook for ``load_state_dict``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        if (name := todays_name(key)) != key:
            state_dict[name] = state_dict.pop(key)


def todays_name(key: str) -> str:
    """``key`` itself where it is no old name."""
    if tower := _OLD_TOWER.fullmatch(key):
        name, index, kind = tower.groups()
        return f"{name}.{int(index) // 2}.0.{kind}"
    if fpn := _OLD_FPN.fullmatch(key):
        name, kind = fpn.groups()
        return f"{name}.0.{kind}"
    return key
