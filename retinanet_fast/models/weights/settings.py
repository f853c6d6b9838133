"""What weights need of their model and no tensor shows."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from retinanet_fast.models.fpn import LastLevelP6P7
from retinanet_fast.models.resnet import FrozenBatchNorm2d, ResNet

__all__ = ["Settings", "settings_of"]


class Settings(NamedTuple):
    """Each is None where it is not known, or where the model has no such part.

    A plain state dict does not hold them. Saved as ``{"model": state_dict, "settings": settings_of(model).to_dict()}``,
    a model's weights come back with them.
    """

    # The eps of the frozen batch norms.
    frozen_eps: float | None = None
    # Whether a bottleneck's stride is in its first convolution, as in Caffe's ResNets.
    stride_in_1x1: bool | None = None
    # Whether there is a ReLU between P6 and P7.
    relu_before_p7: bool | None = None

    def apply(self, model: nn.Module) -> list[str]:
        """Give the model what is known, and return a note for each thing that it has no place for."""
        notes = []
        for module in _find(model, FrozenBatchNorm2d):
            module.eps = module.eps if self.frozen_eps is None else self.frozen_eps
        if self.stride_in_1x1 is not None:
            for module in (bodies := _find(model, ResNet)):
                module.stride_in_1x1 = self.stride_in_1x1
            if self.stride_in_1x1 and not bodies:
                notes.append("a bottleneck's stride belongs in its 1x1 convolution: set it in the backbone")
        if self.relu_before_p7 is not None:
            for module in (tops := _find(model, LastLevelP6P7)):
                module.relu_before_p7 = self.relu_before_p7
            if not self.relu_before_p7 and not tops and not isinstance(model, ResNet):
                notes.append("no ReLU belongs between P6 and P7: remove it from the backbone")
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as checkpoints keep them."""
        return self._asdict()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """What a later version has added is left out."""
        return cls(**{name: values[name] for name in cls._fields if name in values})


def settings_of(model: nn.Module) -> Settings:
    """The settings that a model has now."""
    norms, bodies, tops = (_find(model, kind) for kind in (FrozenBatchNorm2d, ResNet, LastLevelP6P7))
    return Settings(
        norms[0].eps if norms else None,
        bodies[0].stride_in_1x1 if bodies else None,
        tops[0].relu_before_p7 if tops else None,
    )


def _find(model: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]
