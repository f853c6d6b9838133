"""Loads the batches of a training run, from any step on, and of an evaluation; in place or by worker processes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from retinanet_fast.engine.data.augment import Augmented
from retinanet_fast.engine.data.batch import Batch, collate
from retinanet_fast.engine.data.dataset import BadImage, CocoDataset
from retinanet_fast.engine.data.image_cache import ImageCache
from retinanet_fast.engine.data.order import Draw, TrainOrder, shares
from retinanet_fast.engine.data.workers import start_worker, starting_workers
from retinanet_fast.engine.errors import InputError, TrainingError, one_line
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.threads import available_cores

# On a GPU the number of targets per image is padded to a multiple of this, so that nearly all batches have one shape.
GPU_TARGET_ROWS = 64
MAX_WORKERS = 8


def train_batches(
    dataset: CocoDataset,
    order: TrainOrder,
    recipe: Recipe,
    device: torch.device,
    *,
    first_step: int,
    last_step: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Batch]]:
    """What a process trains on: for each step, its ``recipe.accumulate`` shares of the step's images.

    A step's images are cut, in order, into ``world_size * recipe.accumulate`` shares, of which process ``rank`` has
    ``accumulate`` in a row. An empty share holds the step's first image with weight 0, so that every process does the
    same work. An image that cannot be read is replaced by the next one of the data set that can, and told of in
    ``Batch.messages``. Everything is a function of the recipe and the step: not of the worker that loads it, of where
    the run was resumed, or of torch's generator.

    Args:
        first_step: the first step, counted from 0 over the whole run.
        last_step: where to end; not included.

    Raises:
        InputError: no image of the data set can be read.
        TrainingError: a worker process was killed.
    """
    workers = num_workers(recipe, device)
    if workers == 0:
        dataset.cache = ImageCache()
    steps = _Steps(dataset, recipe, device, rank, world_size)
    loader: DataLoader[Any] = DataLoader(
        steps,
        batch_size=None,  # the data set's items are batches already
        # Made here, in the main process: each worker would keep an order of its own.
        sampler=_Draws(order, range(first_step, last_step)),
        collate_fn=_as_it_is,
        **_loading(workers, device),
    )
    for item in read(loader):
        if isinstance(item, _NoImage):
            raise InputError(item.message)
        yield item


def eval_loader(
    dataset: CocoDataset,
    batch_size: int,
    recipe: Recipe,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Any]:
    """Batches for evaluation, of images of like shapes; every ``world_size``-th batch is the process's.

    Sorted by their aspect, since what a batch is padded to costs as much as its images. The batches are the same for
    any number of processes, and so are the detections: what is beside an image changes those at its border.
    """
    sizes = dataset.images.sizes
    order = np.argsort(sizes[:, 1] / sizes[:, 0], kind="stable").tolist()
    starts = range(rank * batch_size, len(order), world_size * batch_size)
    batches = [order[start : start + batch_size] for start in starts]
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=list,
        **_loading(num_workers(recipe, device), device),
    )


def read(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches. Its workers leave signals to the main process.

    Raises:
        TrainingError: a worker was killed.
    """
    with starting_workers() if loader.num_workers > 0 else nullcontext():
        batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = one_line(error)
            raise TrainingError(
                f"a process that loads images ended: {reason}; fewer --workers may help"
            ) from None
        yield batch


def _loading(workers: int, device: torch.device) -> dict[str, Any]:
    return {
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": start_worker,
        "generator": torch.Generator(),  # else each loader would take a number from torch's own
    }


def num_workers(recipe: Recipe, device: torch.device) -> int:
    """The recipe's, or, for a GPU, this process's part of the machine's cores.

    On the CPU images are best loaded in place: the model uses every core and takes far longer than decoding.
    """
    if recipe.workers >= 0:
        return recipe.workers
    if device.type != "cuda":
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # of this machine, as torchrun says
    return min(MAX_WORKERS, max(1, available_cores() // processes))


@dataclasses.dataclass
class _NoImage:
    """No image can be read. Passed on, not raised, since an error from a worker process would have many lines."""

    message: str


class _Draws(Sampler["list[Draw]"]):
    """The images of each step."""

    def __init__(self, order: TrainOrder, steps: range) -> None:
        self.order, self.steps = order, steps

    def __iter__(self) -> Iterator[list[Draw]]:
        return (self.order.batch(step) for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Steps(Dataset["list[Batch] | _NoImage"]):
    """A process's shares of each step, which its images name."""

    def __init__(
        self,
        dataset: CocoDataset,
        recipe: Recipe,
        device: torch.device,
        rank: int,
        world_size: int,
    ) -> None:
        self.dataset = dataset
        self.parts = world_size * recipe.accumulate
        self.own = slice(rank * recipe.accumulate, (rank + 1) * recipe.accumulate)
        self.size_divisible = recipe.size_divisible
        self.on_gpu = device.type == "cuda"
        self.rows = GPU_TARGET_ROWS if self.on_gpu else 1
        self.bad: dict[int, str] = {}  # by index: each is opened once by each worker

    def __getitem__(self, draws: list[Draw]) -> list[Batch] | _NoImage:
        batches = []
        for share in shares(draws, self.parts)[self.own]:
            messages: list[str] = []
            found = [self._readable(draw, messages) for draw in share or draws[:1]]
            samples = [sample for sample in found if sample is not None]
            if len(samples) < len(found):
                annotations = self.dataset.annotations
                return _NoImage(f"{annotations}: no readable image: the data set is empty; {messages[0]}")
            batch = collate(samples, self.size_divisible, self.rows)
            if self.on_gpu:  # packed here, in a worker process, and not in the one that trains
                batch = batch.pack()
            batch.weight, batch.messages = len(share) / len(draws), messages
            batches.append(batch)
        return batches

    def _readable(self, draw: Draw, messages: list[str]) -> Augmented | None:
        """The image, or the next that can be read, from the first on after the last; None where none can."""
        total = len(self.dataset)
        for index in (i % total for i in range(draw.index, draw.index + total)):
            if index not in self.bad:
                found = self.dataset.augmented(Draw(index, draw.epoch))
                if not isinstance(found, BadImage):
                    return found
                self.bad[index] = found.message
            if self.bad[index] not in messages:
                messages.append(self.bad[index])
        return None


def _as_it_is(batches: list[Batch] | _NoImage) -> list[Batch] | _NoImage:
    return batches
