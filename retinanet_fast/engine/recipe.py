"""Recipes: everything that determines a training run, in one small TOML file."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from retinanet_fast.engine.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

V2 = "resnet50_v2"  # the arch of torchvision's retinanet_resnet50_fpn_v2


def _doc(doc: str) -> dict[str, str]:
    """A value's one-line description, which is also the help of its flag."""
    return {"doc": doc}


def _value(default: Any, doc: str) -> Any:
    return field(default=default, metadata=_doc(doc))


@dataclass
class Recipe:
    """The values of a training run. A recipe file names those that differ from these defaults.

    Sizes are pixels. ``retinanet-fast train --help`` lists every value with its flag.
    """

    # Model
    arch: str = _value(
        "resnet50",
        "backbone: resnet18 ... resnet152, resnext101_32x8d, resnet50_v2, ..., or timm/NAME, torchvision/NAME",
    )
    fpn_channels: int = _value(256, "channels of the feature pyramid and of the head")
    head_norm: bool = _value(
        False, "group norm in the head: learns faster from scratch (resnet50_v2 always has it)"
    )
    identity_start: bool = _value(
        False, "residual blocks and head start near the identity: learns faster from scratch"
    )
    init: str = _value(
        "",
        "file of weights to start from, a checkpoint, or torchvision's, detectron2's or mmdetection's; "
        "freezes batch norm (not v2's, timm's or torchvision's)",
    )
    trainable_layers: int = _value(
        3,
        "with init, how many of the backbone's 5 layers are trained, the last ones (all of timm's and torchvision's)",
    )
    anchor_sizes: list[int] = field(
        default_factory=lambda: [32, 64, 128, 256, 512],
        metadata=_doc("smallest anchor of each level, in pixels"),
    )
    aspect_ratios: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 2.0], metadata=_doc("anchor heights over widths")
    )
    # Images
    min_size: list[int] = field(
        default_factory=lambda: [800],
        metadata=_doc("shorter side; several: training draws one per image, evaluation takes the last"),
    )
    max_size: int = _value(1333, "the longer side is at most this")
    hflip: float = _value(0.5, "probability of a left-right flip")
    vflip: float = _value(0.0, "probability of an up-down flip")
    keep_empty: bool = _value(True, "train on images without boxes too")
    group_aspect: bool = _value(True, "batches of only landscape or only portrait images: less padding")
    size_divisible: int = _value(32, "sides of a batch are padded to a multiple of this")
    scale_jitter: list[float] = field(
        default_factory=list,
        metadata=_doc(
            "smallest and largest factor of a drawn resize, then crop or pad to the size; none: no jitter"
        ),
    )
    photometric: float = _value(
        0.0, "probability of each change of brightness, contrast, saturation, hue and channels (torchvision)"
    )
    # Optimisation
    epochs: int = _value(12, "passes over the training images")
    batch_size: int = _value(16, "images per step")
    accumulate: int = _value(1, "parts of a step's images that go through the model one after another")
    epoch_steps: int = _value(0, "at most so many steps per epoch, for large data sets; 0 takes every image")
    optimizer: str = _value("sgd", "sgd or adamw")
    lr: float = _value(0.01, "learning rate after the warm-up")
    momentum: float = _value(0.9, "momentum of sgd")
    weight_decay: float = _value(1e-4, "weight decay")
    clip_norm: float = _value(0.0, "largest norm of the gradient; 0 does not clip")
    warmup_iters: int = _value(500, "steps over which the learning rate rises linearly")
    schedule: str = _value("steps", "steps or cosine")
    steps: list[float] = field(
        default_factory=lambda: [8, 11],
        metadata=_doc("epochs after which the learning rate is multiplied by step_gamma"),
    )
    step_gamma: float = _value(0.1, "factor at each step")
    seed: int = _value(0, "seed of weights, order and augmentation")
    # Detection
    score_thresh: float = _value(0.05, "detections below this score are dropped")
    nms_thresh: float = _value(0.5, "IoU above which the lower of two detections of a class is dropped")
    topk_candidates: int = _value(1000, "candidates per level before suppression")
    detections_per_img: int = _value(300, "detections kept per image")
    eval_every: int = _value(1, "epochs between evaluations; the last epoch is always evaluated")
    eval_images: int = _value(0, "evaluate on the first so many images while training; 0 takes all")
    # Running
    workers: int = _value(-1, "processes that load images; -1 chooses")
    amp: bool = _value(True, "bfloat16 autocast on a GPU")
    channels_last: bool = _value(True, "keep activations channels_last")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            setattr(self, name, _convert(name, getattr(self, name), kind))
        _check_range(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as checkpoints keep them."""
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        """The recipe as a file, every value written out with its description."""
        width = max(len(f.name) for f in dataclasses.fields(self))
        lines = []
        for f in dataclasses.fields(self):
            setting = f"{f.name:<{width}} = {_toml(getattr(self, f.name))}"
            lines.append(f"{setting:<44}  # {f.metadata['doc']}")
        return "\n".join(lines) + "\n"

    def replace(self, **values: Any) -> Recipe:
        """A copy with some values changed."""
        return dataclasses.replace(self, **values)


def from_dict(values: dict[str, Any], source: str) -> Recipe:
    """A recipe from plain values; ``source`` is named in errors."""
    known = {f.name for f in dataclasses.fields(Recipe)}
    for key in values:
        if key not in known:
            raise InputError(f"{source}: unknown value {key!r}; known are {', '.join(sorted(known))}")
    try:
        return Recipe(**values)
    except ValueError as error:
        raise InputError(f"{source}: {error}") from None


def names() -> list[str]:
    """Names of the recipes inside the package."""
    folder = resources.files(__package__) / "recipes"
    return sorted(item.name[: -len(".toml")] for item in folder.iterdir() if item.name.endswith(".toml"))


def load(name_or_file: str) -> Recipe:
    """A recipe of the package by its name, or one from a TOML file.

    Raises:
        InputError: no such recipe, not TOML, an unknown key or a value of the wrong type.
    """
    path = Path(name_or_file)
    if name_or_file in names():
        source = f"recipe {name_or_file}"
        text = (resources.files(__package__) / "recipes" / f"{name_or_file}.toml").read_text()
    elif path.is_file():
        source = str(path)
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
    else:
        raise InputError(f"{name_or_file}: no such recipe file, nor one of {', '.join(names())}")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{source}: not TOML: {error}") from None
    return from_dict(values, source)


def _convert(name: str, value: Any, kind: Any) -> Any:
    """``value`` as ``kind``: an int becomes a float and a single number a list; nothing else is converted."""
    if kind in (list[int], list[float]):
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not items and name not in ("steps", "scale_jitter"):
            raise ValueError(f"{name}: expected at least one number, got none")
        return [_convert(name, item, kind.__args__[0]) for item in items]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")
    return value


def _check_range(recipe: Recipe) -> None:
    positive = ("epochs", "batch_size", "fpn_channels", "max_size", "lr", "eval_every", "detections_per_img")
    for name in positive:
        if not getattr(recipe, name) > 0:
            raise ValueError(f"{name}: expected a number above 0, got {getattr(recipe, name)}")
    for name in ("hflip", "vflip", "score_thresh", "nms_thresh"):
        if not 0 <= getattr(recipe, name) <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {getattr(recipe, name)}")
    for name, allowed in (("optimizer", ("sgd", "adamw")), ("schedule", ("steps", "cosine"))):
        if getattr(recipe, name) not in allowed:
            raise ValueError(f"{name}: expected {' or '.join(allowed)}, got {getattr(recipe, name)!r}")
    if (recipe.head_norm or recipe.arch == V2) and recipe.fpn_channels % 8:
        raise ValueError(f"fpn_channels: expected a multiple of 8 with group norm, got {recipe.fpn_channels}")
    for name in ("min_size", "anchor_sizes", "aspect_ratios"):
        if min(getattr(recipe, name)) <= 0:
            raise ValueError(f"{name}: expected numbers above 0, got {getattr(recipe, name)}")
    if not 0 <= recipe.trainable_layers <= 5:
        raise ValueError(f"trainable_layers: expected 0 to 5, got {recipe.trainable_layers}")
    if len(recipe.anchor_sizes) != 5:
        raise ValueError(
            f"anchor_sizes: expected 5 numbers, one per pyramid level, got {recipe.anchor_sizes}"
        )


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
