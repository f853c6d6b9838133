"""Weights for the models: where they may come from, the names they may carry, and what became of them."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from retinanet_fast.models.resnet import FrozenBatchNorm2d

__all__ = [
    "LoadReport",
    "Weights",
    "WeightsEnum",
    "WeightsSource",
    "frozen_eps",
    "load_weights",
    "read_tensors",
    "read_weights",
    "rename_old_keys",
]

# torchvision's published RetinaNet v1 (RetinaNet_ResNet50_FPN_Weights.COCO_V1) was trained without an eps in its
# frozen batch norms, which no tensor shows. The file is known by the start of its SHA-256, as torchvision checks it.
PUBLISHED_V1_SHA256 = "eeacb38b"
BODY = "backbone.body."
SHOWN_NAMES = 3


class WeightsEnum(Protocol):
    """A member of one of torchvision's weights enums."""

    def get_state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The state dict, downloaded where it is not cached."""
        ...


@dataclass(frozen=True)
class Weights:
    """Weights as they were read: under today's names, not wrapped in anything.

    Attributes:
        source: what they were read from, for messages.
        frozen_eps: the eps of the frozen batch norms that they were trained with, where that is known.
    """

    state: dict[str, Tensor]
    source: str = "the state dict"
    frozen_eps: float | None = None


# A state dict, the path of a file that holds one, a member of a torchvision weights enum, or weights read before.
WeightsSource = Mapping[str, Any] | str | os.PathLike[str] | WeightsEnum | Weights


@dataclass(frozen=True)
class LoadReport:
    """What became of weights: ``str()`` says it in one line.

    Attributes:
        loaded: tensors of the model that were given their values.
        missing: tensors of the model that the weights lack.
        unused: tensors of the weights that the model lacks.
        other_shape: tensors that both have, with the two shapes, and that were not taken.
    """

    loaded: list[str]
    missing: list[str]
    unused: list[str]
    other_shape: list[str]

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was given its value, and every one of the weights was used."""
        return not (self.missing or self.unused or self.other_shape)

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded"]
        parts += _listed("missing", self.missing)
        parts += _listed("not used", self.unused)
        return "; ".join(parts + _listed("of another shape", self.other_shape))


def load_weights(
    model: nn.Module,
    weights: WeightsSource,
    *,
    strict: bool = True,
    frozen_eps: float | None = None,
    progress: bool = True,
) -> LoadReport:
    """Give a model its weights, and say what was not used or is missing.

    The names of torchvision before 0.13, which its published RetinaNet v1 file has, are taken for today's; a
    classifier's names, which lack ``backbone.body.``, for those of the detector's ResNet. A state dict may be
    wrapped as ``{"model": ...}``. Files are read with ``torch.load(weights_only=True)``: they cannot run code.

    Args:
        model: a RetinaNet, or any module with the same names.
        weights: a state dict, the path of a file that holds one, or a member of a torchvision weights enum,
            which alone may download.
        strict: refuse weights that do not fill the model or are not all used. Otherwise take the tensors whose
            name and shape fit.
        frozen_eps: the eps of the model's frozen batch norms. By default 0 for torchvision's published RetinaNet v1
            file, which is known by its SHA-256, that of the run for a checkpoint of ``retinanet-fast``, and else
            what the model has.
        progress: show the progress of a download.

    Returns:
        Which tensors were loaded, missing, not used or of another shape. Counters of batches
        (``num_batches_tracked``) do not count as either.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a name of a torchvision weights enum instead of its member, a file that holds no state dict, or,
            if strict, weights that do not fit, which are named.
    """
    found = read_weights(weights, progress)
    expected = model.state_dict()
    fitting: dict[str, Tensor] = {}
    unused, other_shape = [], []
    for given, tensor in found.state.items():
        name = given if given in expected else BODY + given
        if name not in expected:
            unused.append(given)
        elif tensor.shape != expected[name].shape:
            other_shape.append(f"{given} {list(tensor.shape)}, expected {list(expected[name].shape)}")
        else:
            fitting[name] = tensor
    seen = {name for given in found.state for name in (given, BODY + given)}
    report = LoadReport(
        loaded=list(fitting),
        missing=[name for name in expected if name not in seen and not _is_counter(name)],
        unused=[name for name in unused if not _is_counter(name)],
        other_shape=other_shape,
    )
    if strict and not report.complete:
        raise ValueError(f"{found.source}: weights of another model: {report}")
    model.load_state_dict(fitting, strict=False)
    eps = found.frozen_eps if frozen_eps is None else frozen_eps
    if eps is not None:
        for norm in _frozen_norms(model):
            norm.eps = eps
    return report


def read_weights(source: WeightsSource, progress: bool = True) -> Weights:
    """The weights of ``source`` under today's names; see :func:`load_weights`, which puts them into a model."""
    if isinstance(source, Weights):
        return source
    if isinstance(source, Mapping):
        return _unwrap(source, "the state dict")
    if isinstance(source, (str, os.PathLike)):
        _refuse_enum_name(source)
        path = os.fspath(source)
        content = read_tensors(path)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: expected a state dict, got a {type(content).__name__}")
        return _unwrap(content, path)
    found = _unwrap(source.get_state_dict(progress=progress, check_hash=True), str(source))
    published = str(getattr(source, "url", "")).endswith(f"-{PUBLISHED_V1_SHA256}.pth")
    return Weights(found.state, found.source, 0.0 if published else None)


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """``torch.load`` on the CPU with ``weights_only=True``, and an error in one line.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds more than tensors and plain values.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file of weights")
    try:
        return torch.load(name, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{name}: not a file of weights: expected tensors and plain values") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: not a file of weights, or a damaged one: {reason}") from None


def frozen_eps(model: nn.Module) -> float | None:
    """The eps of a model's frozen batch norms, if it has any."""
    return next((norm.eps for norm in _frozen_norms(model)), None)


# Before torchvision 0.13, convolutions followed by an activation or a norm were one level higher, and in the head's
# towers the activations between them were counted. Its published RetinaNet v1 weights have these names.
_OLD_TOWER = re.compile(r"(.*head\.(?:classification|regression)_head\.conv)\.([0246])\.(weight|bias)")
_OLD_FPN = re.compile(r"(.*fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")


def rename_old_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """Give old entries of ``state_dict`` today's names, in place; a hook for ``load_state_dict``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        if (name := _todays_name(key)) != key:
            state_dict[name] = state_dict.pop(key)


def _todays_name(key: str) -> str:
    if tower := _OLD_TOWER.fullmatch(key):
        name, index, kind = tower.groups()
        return f"{name}.{int(index) // 2}.0.{kind}"
    if fpn := _OLD_FPN.fullmatch(key):
        name, kind = fpn.groups()
        return f"{name}.0.{kind}"
    return key


def _unwrap(content: Mapping[str, Any], source: str) -> Weights:
    """The state dict in ``content``, which may be a checkpoint with more in it."""
    nested = content.get("model")
    state = nested if isinstance(nested, Mapping) else content
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{source}: expected a state dict of tensors, got {type(value).__name__} {name!r}"
            )
    renamed = {_todays_name(name): tensor for name, tensor in state.items()}
    eps = content.get("frozen_eps") if state is nested else None
    if renamed.keys() != state.keys() and _is_published_v1(source):
        eps = 0.0
    return Weights(renamed, source, eps)


def _is_published_v1(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest().startswith(PUBLISHED_V1_SHA256)


# As torchvision's enums name their members, with or without the enum's own name.
_ENUM_NAME = re.compile(r"(?:\w+_Weights\.)?(?:DEFAULT|[A-Z0-9]+_V\d+)")


def _refuse_enum_name(source: str | os.PathLike[str]) -> None:
    if isinstance(source, str) and _ENUM_NAME.fullmatch(source):
        raise ValueError(
            f"weights {source!r}: the name of a torchvision weights enum; nothing is downloaded by a name. Give the "
            "member itself, such as torchvision.models.detection.RetinaNet_ResNet50_FPN_Weights.DEFAULT, "
            f"or a file (a file of this name as './{source}')"
        )


def _frozen_norms(model: nn.Module) -> list[FrozenBatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]


def _is_counter(name: str) -> bool:
    """Whether a tensor counts batches: a trained batch norm has it, a frozen one does not, and neither needs it."""
    return name.endswith("num_batches_tracked")


def _listed(what: str, names: list[str]) -> list[str]:
    if not names:
        return []
    rest = ", ..." if len(names) > SHOWN_NAMES else ""
    return [f"{len(names)} {what} ({', '.join(names[:SHOWN_NAMES])}{rest})"]
