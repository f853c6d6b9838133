"""torchvision's published weights by their names."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["is_enum_name", "member"]

# As torchvision's enums name their members, with or without the enum's own name.
_ENUM_NAME = re.compile(r"(?:(\w+_Weights)\.)?(DEFAULT|[A-Z0-9]+(?:_[A-Z0-9]+)*_V\d+)")


def is_enum_name(source: object) -> bool:
    """Whether a string names a member of a torchvision weights enum; no file of such a name is taken for it."""
    return isinstance(source, str) and _ENUM_NAME.fullmatch(source) is not None


def member(name: str, model: str | None = None) -> Any:
    """The member of a torchvision weights enum.

    Args:
        name: such as ``"DEFAULT"``, ``"COCO_V1"`` or ``"RetinaNet_ResNet50_FPN_Weights.COCO_V1"``.
        model: torchvision's name of the model that they are for. None: any, and ``name`` needs its enum's name.

    Raises:
        ValueError: torchvision is not installed, or has no such weights for that model.
    """
    match = _ENUM_NAME.fullmatch(name)
    assert match is not None
    enum, short = match.groups()
    instead = f"give a file or a state dict (a file of this name as './{name}')"
    if model is None and enum is None:
        raise ValueError(
            f"weights {name!r}: of which model? Write it with its enum, such as "
            f"'RetinaNet_ResNet50_FPN_Weights.{short}', or {instead}"
        )
    try:
        import torchvision
    except ImportError:
        raise ValueError(
            f"weights {name!r}: one of torchvision's, which is not installed: pip install torchvision, or {instead}"
        ) from None
    try:
        found = (
            torchvision.models.get_weight(name)
            if model is None
            else torchvision.models.get_model_weights(model)[short]
        )
    except (KeyError, ValueError, AttributeError):
        found = None
    if found is None or enum not in (None, type(found).__name__):
        raise ValueError(
            f"weights {name!r}: torchvision has none of this name for {model or 'any model'}; {instead}"
        )
    return found
