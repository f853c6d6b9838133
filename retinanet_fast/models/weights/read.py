"""Weights from wherever they are: state dicts, files, torchvision's published ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from retinanet_fast.models.weights import names_detectron2, names_mmdetection, published
from retinanet_fast.models.weights.names_torchvision import todays_name
from retinanet_fast.models.weights.numpy_pickle import load_numpy_pickle
from retinanet_fast.models.weights.settings import Settings
from retinanet_fast.models.weights.state import Weights

__all__ = ["WeightsEnum", "WeightsSource", "read_tensors", "read_weights", "settings_in"]

# torchvision's published RetinaNet v1 (RetinaNet_ResNet50_FPN_Weights.COCO_V1) was trained without an eps in its
# frozen batch norms, which no tensor shows. The file is known by the start of its SHA-256, as torchvision checks it.
PUBLISHED_V1_SHA256 = "eeacb38b"
ZIP_MAGIC = b"PK"
# What checkpoints call the state dict in them: detectron2's and our own, mmdetection's, and Caffe2's.
NESTED = ("model", "state_dict", "blobs")


class WeightsEnum(Protocol):
    """A member of one of torchvision's weights enums."""

    def get_state_dict(self, *args: Any, **kwargs: Any) -> Mapping[str, Any]:
        """The state dict, downloaded where it is not cached."""
        ...


# A state dict, the path of a file that holds one, torchvision's published weights by a member of a weights enum or its
# name, or weights read before.
WeightsSource = Mapping[str, Any] | str | os.PathLike[str] | WeightsEnum | Weights


def read_weights(
    source: WeightsSource,
    progress: bool = True,
    *,
    model: str | None = None,
    caffe_style: bool | None = None,
) -> Weights:
    """The weights of ``source`` under today's names; see :func:`load_weights`, which puts them into a model.

    Args:
        model: torchvision's name of the model that they are for, so that ``"DEFAULT"`` says which weights are meant.
        caffe_style: see :func:`load_weights`.
    """
    if isinstance(source, bool):
        raise ValueError('weights: expected a file, a state dict or a name such as "DEFAULT", got a bool')
    if isinstance(source, Weights):
        return source
    if isinstance(source, Mapping):
        return _unwrap(source, "the state dict", caffe_style)
    if isinstance(source, str) and published.is_enum_name(source):
        return _published(published.member(source, model), progress)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        content = read_tensors(path)
        if not isinstance(content, Mapping):
            raise ValueError(f"{path}: expected a state dict, got a {type(content).__name__}")
        return _unwrap(content, path, caffe_style)
    return _published(source, progress)


def _published(member: WeightsEnum, progress: bool) -> Weights:
    found = _unwrap(member.get_state_dict(progress=progress, check_hash=True), str(member))
    is_v1 = str(getattr(member, "url", "")).endswith(f"-{PUBLISHED_V1_SHA256}.pth")
    return dataclasses.replace(found, settings=found.settings._replace(frozen_eps=0.0 if is_v1 else None))


def read_tensors(path: str | os.PathLike[str]) -> Any:
    """The content of a file of tensors, on the CPU, and an error in one line.

    torch's files are read with ``torch.load(weights_only=True)``, and pickles of numpy arrays (detectron2's ``.pkl``)
    by an unpickler that builds arrays and nothing else: neither can run code.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, or one that holds more than tensors and plain values.
    """
    name = os.fspath(path)
    if not os.path.isfile(name):
        raise FileNotFoundError(f"{name}: no such file of weights")
    try:
        with open(name, "rb") as file:
            if name.endswith((".pkl", ".pickle")) and file.read(len(ZIP_MAGIC)) != ZIP_MAGIC:
                file.seek(0)
                return load_numpy_pickle(file)
        return torch.load(name, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{name}: not a file of weights: {_refusal(str(error))}") from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, MemoryError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: not a file of weights, or a damaged one: {reason}") from None
    except (TypeError, AttributeError, IndexError, OverflowError) as error:  # of a pickle that is made up
        raise ValueError(f"{name}: not a file of weights, or a damaged one: {error}") from None


def _refusal(message: str) -> str:
    """What a file asks for, in a few words; torch's own message is a page."""
    if found := re.search(r"GLOBAL (\S+)", message):
        wanted = found.group(1)
        hint = '; keep its "meta" and "state_dict" alone' if wanted.startswith("mmengine") else ""
        return f"expected tensors and plain values, found {wanted}{hint}"
    return message if "; a file of weights holds" in message else "expected tensors and plain values"


def _unwrap(content: Mapping[str, Any], source: str, caffe_style: bool | None = None) -> Weights:
    """The state dict in ``content``, which may be a checkpoint with more in it, as ours."""
    nested = next((content[key] for key in NESTED if isinstance(content.get(key), Mapping)), None)
    names_detectron2.refuse_caffe2(content if nested is None else nested, source)
    state = _tensors(content if nested is None else nested, source)
    if names_detectron2.is_detectron2(state):
        return names_detectron2.convert(state, source, caffe_style)
    if names_mmdetection.is_mmdetection(state):
        meta = content.get("meta")
        return names_mmdetection.convert(
            state, meta if isinstance(meta, Mapping) else {}, source, caffe_style
        )
    renamed = {todays_name(name): tensor for name, tensor in state.items()}
    settings = Settings() if nested is None else settings_in(content)
    if renamed.keys() != state.keys() and _is_published_v1(source):
        settings = settings._replace(frozen_eps=0.0)
    return Weights(renamed, source, settings)


def _tensors(state: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """A state dict of tensors; without the ``module.`` that ``DistributedDataParallel`` puts before every name."""
    found = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value if value.flags.writeable else value.copy())
        if not isinstance(value, Tensor):
            raise ValueError(
                f"{source}: expected a state dict of tensors, got {type(value).__name__} {name!r}"
            )
        found[name] = value
    if found and all(name.startswith("module.") for name in found):
        return {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def settings_in(content: Mapping[str, Any]) -> Settings:
    """The settings in a checkpoint of ``retinanet-fast``; those of its first version had ``frozen_eps`` alone."""
    values = content.get("settings")
    if isinstance(values, Mapping):
        return Settings.from_dict(dict(values))
    eps = content.get("frozen_eps")
    return Settings(frozen_eps=eps if isinstance(eps, float) else None)


def _is_published_v1(path: str) -> bool:
    if not os.path.isfile(path):
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest().startswith(PUBLISHED_V1_SHA256)
