"""A run for hooks, without a model: what they read of it, and its records."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_sets
import torch

from retinanet_fast.engine.data.coco import locate, read_split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.coco_numbers import NAMES, evaluate
from retinanet_fast.engine.evaluation.results import Detected, from_list
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.clock import PhaseClock
from retinanet_fast.engine.training.hooks import Hook, StepReport

STEPS = 4


def stand_in(folder: Path, epochs: int = 3) -> Any:
    """A run of four steps an epoch on two images, evaluated on the same two."""
    data_sets.write(folder, data_sets.document(), "train")
    data_sets.write(folder, data_sets.document(), "val")
    splits = []
    for name in ("train", "val"):
        location = locate(folder, name)
        assert location is not None
        splits.append(read_split(location, Problems(False)))
    return SimpleNamespace(
        recipe=Recipe(epochs=epochs, batch_size=2, eval_every=2),
        train_split=splits[0],
        val_split=splits[1],
        device=torch.device("cpu"),
        steps_per_epoch=STEPS,
        history=[],
        evaluation=None,
        detected=None,
        environment=[],
        drawn=0,
        state=SimpleNamespace(step=0),
        clock=PhaseClock(torch.device("cpu")),
    )


def record(run: Any, epoch: int) -> dict[str, Any]:
    """An epoch's record; every second one is evaluated."""
    made = {
        "epoch": epoch,
        "iterations": epoch * STEPS,
        "loss": 3 / epoch,
        "classification": 1 / epoch,
        "bbox_regression": 2 / epoch,
        "lr": 0.5,
        "images": 8,
        "seconds": 4.0,
        "images_per_second": 2.0,
        "losses": ["classification", "bbox_regression"],
        "skipped": 0,
        "skipped_steps": 0,
        "curve": [[epoch * STEPS, 1.0, 2.0]],
        "times": {"data": 0.5, "forward": 1.5, "loss": 0.25, "backward": 1.75},
        "memory_bytes": 3 << 29,
    }
    if epoch % run.recipe.eval_every == 0:
        box = {"image_id": 7, "category_id": 5, "bbox": [4, 6, 10, 8], "score": 0.9}
        run.detected = Detected(from_list([box]), [7, 9], 5.0)
        run.evaluation = evaluate(run.val_split, run.detected.results)
        made |= {**run.evaluation.numbers, "eval_images_per_second": 5.0}
        assert any(math.isnan(made[name]) for name in NAMES)  # no large boxes
    return made


def losses(step: int) -> dict[str, float]:
    """Of a step; exact as float32, as TensorBoard keeps them."""
    return {"classification": step / 4, "bbox_regression": step / 8}


def go(run: Any, hooks: list[Hook], until: int) -> None:
    """Go on from the run's step until another, as the loop does: a checkpoint after each epoch."""
    for hook in hooks:
        hook.on_start(run)
    while run.state.step < until:
        run.state.step += 1
        for hook in hooks:
            hook.after_step(run, StepReport(run.state.step, losses(run.state.step), 0.5))
        if run.state.step % STEPS:
            continue
        made = record(run, run.state.step // STEPS)
        for hook in hooks:
            hook.after_epoch(run, made)
        run.history.append(made)
        for hook in hooks:
            hook.after_save(run)
    for hook in hooks:
        hook.on_end(run)
