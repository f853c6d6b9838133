"""What a recipe may hold. An error is a ``ValueError`` of one line: the value, what is expected, what was given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from retinanet_fast.engine.recipe.values import Recipe

V2 = "resnet50_v2"  # the arch of torchvision's retinanet_resnet50_fpn_v2
GROUP_CHANNELS = 8  # channels per group of the head's group norm: 256 channels in 32 groups
LEVELS = 5  # of the pyramid

LISTS = (list[int], list[float])
MAY_BE_EMPTY = ("steps", "scale_jitter")
ABOVE_0 = (
    *("fpn_channels", "anchor_sizes", "aspect_ratios", "min_size", "max_size", "size_divisible", "image_std"),
    *("scale_jitter", "epochs", "batch_size", "accumulate", "lr", "step_gamma", "topk_candidates"),
    *("detections_per_img", "eval_every", "keep_checkpoints", "aspect_groups"),
)
AT_LEAST_0 = (
    *("gamma", "smooth_l1_beta", "epoch_steps", "lr_batch_size", "weight_decay", "clip_norm", "warmup_iters"),
    *("steps", "max_skips", "eval_images", "threads", "checkpoint_minutes"),
)
FROM_0_TO_1 = (
    *("fg_iou_thresh", "bg_iou_thresh", "hflip", "vflip", "photometric", "score_thresh", "nms_thresh"),
)
FROM_0_BELOW_1 = ("momentum", "ema_decay")


def convert_all(recipe: Recipe) -> None:
    """Give every value its own type: an int becomes a float and a single number a list; nothing else is converted."""
    for name, kind in get_type_hints(type(recipe)).items():
        setattr(recipe, name, _convert(name, getattr(recipe, name), kind))


def _convert(name: str, value: Any, kind: Any) -> Any:
    if kind in LISTS:
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not items and name not in MAY_BE_EMPTY:
            raise ValueError(f"{name}: expected at least one number, got none")
        return [_convert(name, item, kind.__args__[0]) for item in items]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected {kind.__name__}, got {value!r}")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value}")
    return value


def check(recipe: Recipe) -> None:
    """Check each value by itself, then those that must go together."""
    for field in dataclasses.fields(recipe):
        value, choices = getattr(recipe, field.name), field.metadata["choices"]
        if choices and value not in choices:
            raise ValueError(f"{field.name}: expected {_or(choices)}, got {value!r}")
    for problem in (*_ranges(recipe), *_lengths(recipe), *_together(recipe)):
        raise ValueError(problem)


def _ranges(recipe: Recipe) -> Iterator[str]:
    for names, expected, holds in (
        (ABOVE_0, "above 0", lambda x: x > 0),
        (AT_LEAST_0, "of at least 0", lambda x: x >= 0),
        (FROM_0_TO_1, "from 0 to 1", lambda x: 0 <= x <= 1),
        (FROM_0_BELOW_1, "from 0 to below 1", lambda x: 0 <= x < 1),
    ):
        for name in names:
            value = getattr(recipe, name)
            if isinstance(value, list) and not all(map(holds, value)):
                yield f"{name}: expected numbers {expected}, got {value}"
            elif not isinstance(value, list) and not holds(value):
                yield f"{name}: expected a number {expected}, got {value}"
    if recipe.alpha != -1 and not 0 <= recipe.alpha <= 1:
        yield f"alpha: expected a number from 0 to 1, or -1 for none, got {recipe.alpha}"
    if not -1 <= recipe.trainable_layers <= 5:
        yield f"trainable_layers: expected 0 to 5, or -1 to choose, got {recipe.trainable_layers}"
    if recipe.workers < -1:
        yield f"workers: expected -1 to choose, or a number of processes, got {recipe.workers}"


def _lengths(recipe: Recipe) -> Iterator[str]:
    if len(recipe.anchor_sizes) != LEVELS:
        yield f"anchor_sizes: expected {LEVELS} numbers, one per pyramid level, got {recipe.anchor_sizes}"
    for name in ("image_mean", "image_std"):
        if len(getattr(recipe, name)) != 3:
            yield f"{name}: expected 3 numbers, of red, green and blue, got {getattr(recipe, name)}"
    jitter = recipe.scale_jitter
    if jitter and not (len(jitter) == 2 and jitter[0] <= jitter[1]):
        yield f"scale_jitter: expected none, or the lowest and the highest factor, got {jitter}"


def _together(recipe: Recipe) -> Iterator[str]:
    grouped = recipe.head_norm == "group" or (recipe.head_norm == "auto" and recipe.arch == V2)
    if grouped and recipe.fpn_channels % GROUP_CHANNELS:
        yield f"fpn_channels: expected a multiple of {GROUP_CHANNELS} with group norm, got {recipe.fpn_channels}"
    if recipe.norm == "frozen_batch" and not recipe.init:
        yield "norm: frozen_batch needs weights to freeze, a file in init; without one, choose another norm"
    if recipe.trainable_layers in range(5) and not recipe.init:
        yield (
            f"trainable_layers: expected -1 or 5 without init, since frozen layers would stay as they were drawn, "
            f"got {recipe.trainable_layers}"
        )
    if "/" in recipe.arch and recipe.trainable_layers in range(5):
        yield (
            f"trainable_layers: expected -1 or 5 with arch {recipe.arch}, all of which is trained, "
            f"got {recipe.trainable_layers}"
        )
    if "/" in recipe.arch and recipe.norm == "group":
        yield f"norm: group goes with ResNets of this package, not with arch {recipe.arch}; choose another norm"
    if recipe.bg_iou_thresh > recipe.fg_iou_thresh:
        yield f"bg_iou_thresh: expected at most fg_iou_thresh, {recipe.fg_iou_thresh}, got {recipe.bg_iou_thresh}"
    if recipe.accumulate > recipe.batch_size:
        yield f"accumulate: expected at most batch_size, {recipe.batch_size}, got {recipe.accumulate}"


def _or(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
