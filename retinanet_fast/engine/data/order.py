"""The order of a run's images: which ones each step takes, as a function of the seed and the step alone."""

from __future__ import annotations

import itertools
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from retinanet_fast.engine.data.split import Images
from retinanet_fast.engine.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """An image to train on: its place in the data set, and the epoch, which decides how it is augmented."""

    index: int
    epoch: int


class TrainOrder:
    """The batches of a run. Each epoch is shuffled by the seed and its number, and takes every image once, or
    ``recipe.epoch_steps`` batches.

    A batch is padded to its widest and its tallest image, so images of like shape belong together: the shuffled images
    of every ``recipe.aspect_groups`` batches are sorted by their aspect and cut into batches, which are shuffled again.

    Args:
        images: the data set's, in its order.
        recipe: gives the seed and the batch size, which is that of a step over all processes.

    Attributes:
        steps_per_epoch: the same in each epoch.
    """

    def __init__(self, images: Images, recipe: Recipe) -> None:
        self.recipe = recipe
        self.sizes = images.sizes
        self.aspects = images.sizes[:, 1] / images.sizes[:, 0]
        batches = -(-len(images) // recipe.batch_size)
        self.steps_per_epoch = min(batches, recipe.epoch_steps or batches)
        self._epochs: dict[int, list[np.ndarray]] = {}

    def batch(self, step: int) -> list[Draw]:
        """The images of a step, which counts from 0 over the whole run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            # Two are kept: about an epoch's end batches of the next one are loaded ahead.
            self._epochs = dict([*list(self._epochs.items())[-1:], (epoch, self._shuffled(epoch))])
        return [Draw(index, epoch) for index in self._epochs[epoch][place].tolist()]

    def padding(self) -> float:
        """The part of the first epoch's pixels that pads images to the size of their batch, without augmentation."""
        resized = resized_sizes(self.sizes, self.recipe)
        multiple = self.recipe.size_divisible
        used = padded = 0
        for batch in self._shuffled(0)[: self.steps_per_epoch]:
            width, height = -(-resized[batch].max(axis=0) // multiple) * multiple
            used += int(resized[batch].prod(axis=1).sum())
            padded += int(width * height) * len(batch)
        return 1 - used / padded

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        draw = random.Random(f"order {self.recipe.seed} {epoch}")
        shuffled = array("q", range(len(self.aspects)))  # as numpy's own shuffle may change with its version
        draw.shuffle(shuffled)
        order, size = np.array(shuffled), self.recipe.batch_size
        window = size * self.recipe.aspect_groups
        batches = []
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(self.aspects[part], kind="stable")]
            batches += [part[i : i + size] for i in range(0, len(part), size)]
        draw.shuffle(batches)
        return batches


def resized_sizes(sizes: np.ndarray, recipe: Recipe) -> np.ndarray:
    """What evaluation resizes images of (width, height) to: ``[N, 2]`` int64. See ``nn.batch_sizes.resized_size``."""
    scale = np.minimum(recipe.min_size[-1] / sizes.min(axis=1), recipe.max_size / sizes.max(axis=1))
    return np.maximum(1, (sizes * scale[:, None]).astype(np.int64))


def shares(batch: Sequence[T], parts: int) -> list[list[T]]:
    """A batch cut, in order, into ``parts`` shares whose lengths differ by at most 1, the longer ones first.

    With fewer images than parts the last shares are empty.
    """
    short, longer = divmod(len(batch), parts)
    starts = [part * short + min(part, longer) for part in range(parts + 1)]
    return [list(batch[start:end]) for start, end in itertools.pairwise(starts)]
