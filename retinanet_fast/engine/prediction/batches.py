"""Batches of pictures of like shapes, by worker processes.

The pictures are cut, in their order, into windows, and a window into batches: what is in a batch does not depend on the
number of workers or processes, or on where a prediction was resumed; nor do the detections.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from retinanet_fast.engine.data.decode import Decoded, Decoding, Size
from retinanet_fast.engine.data.loader import num_workers, read
from retinanet_fast.engine.data.workers import start_worker
from retinanet_fast.engine.prediction.pictures import Pictures
from retinanet_fast.engine.prediction.reading import Reader, Unreadable
from retinanet_fast.engine.recipe import Recipe

# Batches of a window: enough for most to have one shape, few enough to be done again after a kill.
BATCHES = 8


@dataclass
class PictureBatch:
    """Some pictures of a window, decoded."""

    indices: list[int] = field(default_factory=list)  # among all pictures
    decoded: list[Decoded] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)  # pictures that cannot be read, by index

    def pin_memory(self) -> PictureBatch:
        """Called by the loader where batches go to a GPU."""
        return replace(self, decoded=[one._replace(image=one.image.pin_memory()) for one in self.decoded])


@dataclass(frozen=True)
class Windows:
    """How pictures are cut into windows and batches."""

    count: int  # of pictures
    batch_size: int

    @property
    def size(self) -> int:
        """Pictures of each window but the last."""
        return BATCHES * self.batch_size

    def __len__(self) -> int:
        return -(-self.count // self.size)

    def of(self, window: int) -> range:
        """The indices of a window's pictures."""
        return range(window * self.size, min(self.count, (window + 1) * self.size))


def picture_batches(
    pictures: Pictures, windows: Windows, wanted: np.ndarray, recipe: Recipe, device: torch.device
) -> Iterator[PictureBatch]:
    """The batches of some windows. A window's own follow each other; several workers' windows come in turns.

    Args:
        wanted: ``[n]``, the windows, ascending.

    Raises:
        TrainingError: a worker process was killed.
    """
    batches = -(-sum(len(windows.of(window)) for window in wanted.tolist()) // windows.batch_size)
    workers = min(num_workers(recipe, device), batches)
    loader: DataLoader[PictureBatch] = DataLoader(
        _Batches(pictures, windows, wanted, Decoding.of(recipe)),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=device.type == "cuda",
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else it would take a number from torch's own
    )
    return read(loader)


class _Batches(IterableDataset[PictureBatch]):
    """Every n-th window is a worker's; where there are fewer windows than workers, every n-th batch of each."""

    def __init__(self, pictures: Pictures, windows: Windows, wanted: np.ndarray, decoding: Decoding) -> None:
        self.pictures, self.windows, self.wanted, self.decoding = pictures, windows, wanted, decoding

    def __iter__(self) -> Iterator[PictureBatch]:
        worker = get_worker_info()
        own, share = self.wanted.tolist(), slice(None)
        if worker is not None and len(own) >= worker.num_workers:
            own = own[worker.id :: worker.num_workers]
        elif worker is not None:
            share = slice(worker.id, None, worker.num_workers)
        reader = Reader(self.decoding)
        try:
            for window in own:
                yield from self._window(self.windows.of(window), reader, share)
        finally:
            reader.close()

    def _window(self, indices: range, reader: Reader, share: slice) -> Iterator[PictureBatch]:
        sizes: dict[int, Size] = {}
        first = PictureBatch()
        for index in indices:
            try:
                sizes[index] = reader.size(self.pictures[index])
            except Unreadable as error:
                first.faults[index] = str(error)
        # What a batch is padded to costs as much as its images: those of like shapes go together.
        order = sorted(sizes, key=lambda index: sizes[index][1] / sizes[index][0])
        for start in range(0, max(1, len(order)), self.windows.batch_size)[share]:
            batch = first if start == 0 else PictureBatch()
            for index in order[start : start + self.windows.batch_size]:
                self._decode(index, reader, batch)
            yield batch

    def _decode(self, index: int, reader: Reader, batch: PictureBatch) -> None:
        try:
            decoded = reader.decode(self.pictures[index])
        except Unreadable as error:
            batch.faults[index] = str(error)
            return
        batch.indices.append(index)
        batch.decoded.append(decoded)


def _as_it_is(batch: Any) -> Any:
    return batch
