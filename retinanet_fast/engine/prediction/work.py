"""Detects on some windows of pictures, draws them, and appends their lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import nn

from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.loader import num_workers
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import Problems
from retinanet_fast.engine.evaluation.detect import overlapped
from retinanet_fast.engine.evaluation.results import from_batch
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.prediction.batches import PictureBatch, Windows, picture_batches
from retinanet_fast.engine.prediction.drawing import Drawer, DrawnNames, drawer, labels_of
from retinanet_fast.engine.prediction.lines import Line, detections_of, encode
from retinanet_fast.engine.prediction.pictures import Pictures
from retinanet_fast.engine.prediction.writing import WindowWriter
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.structures import Detections

# Pictures to draw for which a process is started: it takes seconds to load what it needs.
WORTH_A_PROCESS = 32


class Work:
    """What a process does of a prediction.

    Attributes:
        names: of the drawings; None where nothing is drawn.
        count: pictures that were read.
        drawn: boxes.
    """

    def __init__(
        self,
        model: nn.Module,
        categories: list[Category],
        recipe: Recipe,
        pictures: Pictures,
        windows: Windows,
        score: float,
        processes: Processes,
    ) -> None:
        self.model, self.categories, self.recipe = model.eval(), categories, recipe
        self.pictures, self.windows, self.score = pictures, windows, score
        self.device = next(model.parameters()).device
        self.dtype = resolve(recipe.precision, self.device)
        self.ids = pictures.ids()
        self.names: DrawnNames | None = None
        self.processes = processes
        self.count = self.drawn = 0

    def run(
        self,
        own: np.ndarray,
        path: Path,
        marked: bool,
        problems: Problems,
        check: Callable[[], None],
        stop: Callable[[], None] | None,
    ) -> None:
        """Do some windows and append them to a file.

        Args:
            own: ``[n]``, the windows, ascending.
            marked: write a line before each that names it.
            check: called between batches, as ``stop`` is.
        """
        total = sum(len(self.windows.of(window)) for window in own.tolist())
        progress = Progress("predict", total * self.processes.world_size)
        batches = picture_batches(self.pictures, self.windows, own, self.recipe, self.device)
        whole = Decoding(Decoding.of(self.recipe).orientation)
        started = time.perf_counter()
        with (
            closing(progress),
            WindowWriter(path, self.windows, own.tolist(), marked) as writer,
            drawer(self._drawing_processes(total), whole) as drawing,
        ):
            readable = self._readable(batches, writer, problems, check, stop)
            for batch, found in overlapped(self.model, readable, self.device, self.dtype):
                self._put(batch, found, writer, drawing)
                writer.write()
                if self.processes.is_main and progress.due():
                    done = self.count * self.processes.world_size
                    progress.draw(done, f"{done / (time.perf_counter() - started):.1f} images/s")
            writer.write(last=True)

    def _drawing_processes(self, pictures: int) -> int:
        if self.names is None:
            return 0
        return min(num_workers(self.recipe, self.device), pictures // WORTH_A_PROCESS)

    def _readable(
        self,
        batches: Iterator[PictureBatch],
        writer: WindowWriter,
        problems: Problems,
        check: Callable[[], None],
        stop: Callable[[], None] | None,
    ) -> Iterator[tuple[PictureBatch, list[torch.Tensor]]]:
        """The batches, with the pixels for the model; what cannot be read is told, and has its line."""
        for batch in batches:
            check()
            if stop is not None:
                stop()
            for index, fault in batch.faults.items():
                problems.report(fault)
                writer.put(index, encode(Line(self.pictures[index].name, int(self.ids[index]), error=fault)))
            if batch.decoded:
                yield batch, [decoded.image for decoded in batch.decoded]

    def _put(self, batch: PictureBatch, found: Detections, writer: WindowWriter, drawing: Drawer) -> None:
        places = list(range(len(batch.indices)))
        ids: list[int | None] = [category.id for category in self.categories]
        scales = [(decoded.size, decoded.scale) for decoded in batch.decoded]
        results = from_batch(found, places, ids, scales)
        ends = np.searchsorted(results.image_id, [*places, len(places)])
        for place, (index, decoded) in enumerate(zip(batch.indices, batch.decoded)):
            own = results.rows(np.arange(ends[place], ends[place + 1]))
            picture, future = self.pictures[index], None
            if self.names is not None:
                labels = labels_of(own, self.categories, self.score)
                future = drawing.draw(picture, decoded, labels, self.names[index])
                self.drawn += len(labels)
            line = Line(picture.name, int(self.ids[index]), *decoded.size, detections_of(own))
            writer.put(index, encode(line), future)
        self.count += len(batch.indices)
