"""The order of a run's images: which ones each step takes, as a function of the seed and the step alone."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from retinanet_fast.engine.data.coco import ImageEntry
from retinanet_fast.engine.recipe import Recipe

T = TypeVar("T")


@dataclass(frozen=True)
class Draw:
    """An image to train on: its place in the data set, and the epoch, which decides how it is augmented."""

    index: int
    epoch: int


class TrainOrder:
    """The batches of a run. Each epoch is shuffled by the seed and its number, and takes every image once, or
    ``recipe.epoch_steps`` batches; with ``recipe.group_aspect`` the images of a batch have one orientation.

    Args:
        images: the data set's, in its order.
        recipe: gives the seed and the batch size, which is that of a step over all processes.

    Attributes:
        steps_per_epoch: the same in each epoch.
    """

    def __init__(self, images: Sequence[ImageEntry], recipe: Recipe) -> None:
        self.recipe = recipe
        self.tall = [recipe.group_aspect and image.width < image.height for image in images]
        groups = (self.tall.count(False), self.tall.count(True))
        batches = sum(-(-count // recipe.batch_size) for count in groups)
        self.steps_per_epoch = min(batches, recipe.epoch_steps or batches)
        self._epochs: dict[int, list[list[int]]] = {}

    def batch(self, step: int) -> list[Draw]:
        """The images of a step, which counts from 0 over the whole run."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch not in self._epochs:
            # Two are kept: about an epoch's end batches of the next one are loaded ahead.
            self._epochs = dict([*list(self._epochs.items())[-1:], (epoch, self._shuffled(epoch))])
        return [Draw(index, epoch) for index in self._epochs[epoch][place]]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        draw = random.Random(f"order {self.recipe.seed} {epoch}")
        order = list(range(len(self.tall)))
        draw.shuffle(order)
        size = self.recipe.batch_size
        groups = ([i for i in order if not self.tall[i]], [i for i in order if self.tall[i]])
        batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
        draw.shuffle(batches)
        return batches


def shares(batch: Sequence[T], parts: int) -> list[list[T]]:
    """A batch cut, in order, into ``parts`` shares whose lengths differ by at most 1, the longer ones first.

    With fewer images than parts the last shares are empty.
    """
    short, longer = divmod(len(batch), parts)
    starts = [part * short + min(part, longer) for part in range(parts + 1)]
    return [list(batch[start:end]) for start, end in itertools.pairwise(starts)]
