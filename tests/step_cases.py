"""Runs without data and batches of noise, for the tests of a training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_run import tiny_model, tiny_recipe
from torch import Tensor, nn

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import detector_losses
from retinanet_fast.engine.training.train import make_state
from retinanet_fast.nn import BatchSizes, pad_targets

RAW = [(40, 60), (48, 64), (64, 50)]


def run_of(device: str = "cpu", **values: Any) -> Run:
    """A run that has a state and no data; its model has a dropout."""
    recipe = tiny_recipe(channels_last=False, **values)
    nowhere = Split.of(Path("none"), [])
    run = Run(recipe, nowhere, None, Path("none"), torch.device(device), Problems(False))
    run.state = make_state(run, tiny_model())
    run.state.model.train()
    return run


def batch_of(seed: int, images: int = 2, padded: tuple[int, int] = (64, 96), rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    chosen = [RAW[(seed + index) % len(RAW)] for index in range(images)]
    boxes = torch.rand(3, 2, generator=generator) * 20
    target = {"boxes": torch.cat((boxes, boxes + 15), 1), "labels": torch.tensor([1, 2, 3])}
    targets = pad_targets([target] * (images - 1) + [{key: value[:1] for key, value in target.items()}], rows)
    sizes = BatchSizes(tuple((min(h, padded[0]), min(w, padded[1])) for h, w in chosen), padded)
    pictures = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in chosen]
    return Batch(pictures, targets, sizes, list(range(images))).pack()


def weighted_losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """The detector's, times a number of the batch's targets."""
    factor = batch.targets["factor"]
    return {name: loss * factor for name, loss in detector_losses(model, batch).items()}
