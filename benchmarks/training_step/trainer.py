"""Our model in the program's own step, as a contender: its batches, its optimizer, its checks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.training_step.contenders import OURS, SETTINGS
from benchmarks.training_step.works import Batch, Work
from benchmarks.workload import Call
from retinanet_fast.engine.data.augment import Augmented
from retinanet_fast.engine.data.batch import collate
from retinanet_fast.engine.data.split import Split
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.training.compiled import compile_network
from retinanet_fast.engine.training.graphed import GraphedStep
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import TrainStep
from retinanet_fast.engine.training.train import make_state

# What a recipe may ask for beyond the usual step, by device.
VARIANTS: dict[str, dict[str, dict[str, bool]]] = {
    "cpu": {"": {}},
    "cuda": {"": {}, "-compile": {"compile": True}, "-cuda_graph": {"cuda_graph": True}},
}


def trainer_calls(
    model: nn.Module, work: Work, batch: Batch, device: torch.device, precision: str
) -> Iterator[tuple[str, Call]]:
    """The program's step in each of its variants, by the name of its row; each has a copy of the model."""
    for name, values in VARIANTS[device.type].items():
        yield (
            f"{OURS}-program{name}",
            trainer_call(copy.deepcopy(model), work, batch, device, precision, values),
        )


def trainer_call(
    model: nn.Module,
    work: Work,
    batch: Batch,
    device: torch.device,
    precision: str,
    values: dict[str, bool],
) -> Call:
    """One step, from a batch on the host (pinned for a GPU) to changed weights."""
    size = (work.height, work.width)
    asked: dict[str, Any] = {**SETTINGS, **values, "precision": precision, "batch_size": work.images}
    recipe = Recipe(optimizer="sgd", min_size=[min(size)], max_size=max(size), **asked)
    run = Run(recipe, Split.of(Path(), []), None, Path(), device, Problems(skip=False), say=_silent)
    run.state = make_state(run, model)
    if recipe.compile:
        compile_network(model, _silent)
    step = GraphedStep(run) if recipe.cuda_graph else TrainStep(run)
    size = (work.height, work.width)
    samples = [
        Augmented(image, target["boxes"], target["labels"], number, size, size)
        for number, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True))
    ]
    on_host = collate(samples, recipe.size_divisible, rows=work.boxes)
    if device.type == "cuda":
        on_host = on_host.pin_memory()
    batches = DevicePrefetcher(itertools.repeat([on_host]), device)
    model.train()

    def call() -> Any:
        return step(next(batches), recipe.lr)

    return call


def _silent(_: str) -> None:
    pass
