"""The record of an epoch: plain values, kept in the checkpoint and written to ``metrics.jsonl``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from retinanet_fast.engine.recipe.schedule import learning_rate
from retinanet_fast.engine.training.clock import memory_bytes
from retinanet_fast.engine.training.run import Run

# What follows COCO's numbers in a record.
AFTER_NUMBERS = ("eval_images_per_second", "times")
# Points of the loss curve that the record of an epoch keeps.
CURVE_POINTS = 40


def epoch_record(run: Run, images: int, seconds: float) -> dict[str, Any]:
    """The record of the epoch that has just been trained, before its evaluation.

    Args:
        images: taken in the epoch.
        seconds: that it took in this process; what it took in earlier ones is in the state.
    """
    state = run.state
    losses = torch.tensor(state.epoch_losses, dtype=torch.float64).reshape(-1, len(state.loss_names))
    mean = losses.mean(0).tolist()
    seconds += state.epoch_seconds
    return {
        "epoch": run.epoch + 1,
        "iterations": state.step,
        "loss": sum(mean),
        **dict(zip(state.loss_names, mean, strict=True)),
        "losses": list(state.loss_names),
        "lr": learning_rate(run.recipe, state.step - 1, run.steps_per_epoch),  # of the last step
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "skipped": len(run.problems.messages),
        "skipped_steps": state.skipped,
        "memory_bytes": memory_bytes(run.device),
        "curve": loss_curve(state.epoch_losses, state.step - len(state.epoch_losses)),
    }


def with_numbers(record: dict[str, Any], numbers: Mapping[str, float]) -> dict[str, Any]:
    """The record of an evaluated epoch with COCO's numbers, in the order in which all records have their values."""
    last = {name: value for name, value in record.items() if name in AFTER_NUMBERS}
    return {**{name: value for name, value in record.items() if name not in last}, **numbers, **last}


def loss_curve(losses: list[list[float]], first: int) -> list[list[float]]:
    """At most ``CURVE_POINTS`` points (step, one value per loss), each a mean over its steps."""
    if not losses:
        return []
    parts = torch.tensor(losses, dtype=torch.float64).tensor_split(min(CURVE_POINTS, len(losses)))
    points, step = [], first
    for part in parts:
        step += len(part)
        points.append([float(step), *part.mean(0).tolist()])
    return points
