"""Detects on pictures: a line of json for each as it goes, COCO's results at the end, and drawings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import Checkpoint, find, restore
from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.loader import num_workers
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.evaluation.detect import LARGEST_BATCH, overlapped
from retinanet_fast.engine.evaluation.results import from_batch
from retinanet_fast.engine.precision import resolve
from retinanet_fast.engine.prediction.batches import PictureBatch, Windows, picture_batches
from retinanet_fast.engine.prediction.drawing import Drawer, DrawnNames, drawer, labels_of, to_picture
from retinanet_fast.engine.prediction.folder import PredictionFolder
from retinanet_fast.engine.prediction.lines import Line, detections_of, encode, write_coco
from retinanet_fast.engine.prediction.pictures import Pictures
from retinanet_fast.engine.prediction.writing import WindowWriter
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.models import RetinaNet
from retinanet_fast.structures import Detections

__all__ = ["PredictOptions", "Predictions", "predict", "restore_model", "to_picture"]


@dataclass(frozen=True)
class PredictOptions:
    """What to write, and where.

    Attributes:
        score: boxes below it are not drawn; the files have every detection of the model.
        draw: whether to draw.
        batch_size: pictures at a time; 0 is the recipe's, at most 16.
        resume: go on with what is in ``out``, if anything is.
        overwrite: replace what is in ``out``.
        made_by: of the model, for ``predict.json``: a prediction is resumed with the same.
    """

    out: Path
    score: float = 0.5
    draw: bool = True
    batch_size: int = 0
    resume: bool = False
    overwrite: bool = False
    made_by: str = ""


@dataclass
class Predictions:
    """What has become of the pictures, those of earlier starts included, and how fast the last start was.

    Attributes:
        detected: pictures that were read.
        unreadable: pictures that could not be.
        drawn: boxes that this start drew.
        images_per_second: 0 where nothing was left to do.
    """

    detected: int
    unreadable: int
    drawn: int
    images_per_second: float


def restore_model(state: Checkpoint, source: Path, device: torch.device) -> RetinaNet:
    """The model of a checkpoint, ready to detect.

    Raises:
        InputError: the weights are not those of the checkpoint's recipe.
    """
    model = build_model(state.recipe, len(state.categories) + 1)
    restore(model, state, find(source))
    memory_format = torch.channels_last if state.recipe.channels_last else torch.contiguous_format
    return model.to(device, memory_format=memory_format).eval()  # type: ignore[call-overload]


def predict(
    model: nn.Module,
    categories: list[Category],
    recipe: Recipe,
    pictures: Pictures,
    options: PredictOptions,
    problems: Problems,
    processes: Processes | None = None,
    stop: Callable[[], None] | None = None,
) -> Predictions | None:
    """Detect on each picture, once, in the processes together, and write what is found to ``options.out``; see
    ``PredictionFolder``.

    Args:
        pictures: the same in every process.
        problems: of all processes, in the main one: pictures that cannot be read.
        stop: called between batches; raises ``Stopped`` where the work is to end.

    Returns:
        The same for any number of processes and starts, speed and drawings aside, in the main one; None in the others.

    Raises:
        InputError: in every process: no picture can be read, or one cannot and bad ones are not skipped; ``out``
            holds a prediction that is to be neither resumed nor replaced.
        Stopped: in every process: ``stop`` raised it in one. What was done is written.
        ProcessLost: another process failed by a defect.
    """
    processes = processes or Processes()
    windows = Windows(len(pictures), options.batch_size or min(recipe.batch_size, LARGEST_BATCH))
    folder = PredictionFolder(options.out, windows)
    with ExitStack() as held:
        begun = None
        with processes.patiently():
            if processes.is_main:
                held.enter_context(folder.locked())
                names = DrawnNames(pictures, options.out) if options.draw else None
                settings = _settings(pictures, windows, recipe, options)
                done = folder.begin(settings, options.resume, options.overwrite)
                begun = names, np.flatnonzero(~done), processes.world_size > 1 or folder.has_parts
        names, wanted, in_parts = processes.share(begun)
        work = _Work(model, categories, recipe, pictures, windows, options, names)
        own = wanted[processes.rank :: processes.world_size]
        path = folder.part(processes.rank) if in_parts else folder.lines
        started = time.perf_counter()
        told = len(problems.messages)
        with processes.patiently() as check:
            work.run(own, path, in_parts, problems, processes, check, stop)
        seconds = time.perf_counter() - started
        parts = processes.gather((work.count, work.drawn, problems.messages[told:]))
        for message in (message for _, _, messages in parts for message in messages):
            problems.report(message)
        result = None
        with processes.patiently():
            if processes.is_main:
                if in_parts:
                    folder.join()
                detected, unreadable = write_coco(folder.lines, folder.coco)
                if detected == 0:
                    raise InputError(f"{pictures[0]}: no readable picture among the {len(pictures)} given")
                rate = sum(count for count, _, _ in parts) / seconds if len(wanted) else 0.0
                result = Predictions(detected, unreadable, sum(drawn for _, drawn, _ in parts), rate)
    return result


@dataclass
class _Work:
    """What a process does."""

    model: nn.Module
    categories: list[Category]
    recipe: Recipe
    pictures: Pictures
    windows: Windows
    options: PredictOptions
    names: DrawnNames | None
    count: int = 0  # pictures read
    drawn: int = 0  # boxes

    def run(
        self,
        own: np.ndarray,
        path: Path,
        marked: bool,
        problems: Problems,
        processes: Processes,
        check: Callable[[], None],
        stop: Callable[[], None] | None,
    ) -> None:
        """Do some windows and append them to a file."""
        device = next(self.model.parameters()).device
        dtype = resolve(self.recipe.precision, device)
        self.ids = self.pictures.ids()
        progress = Progress("predict", sum(len(self.windows.of(window)) for window in own.tolist()))
        batches = picture_batches(self.pictures, self.windows, own, self.recipe, device)
        started = time.perf_counter()
        orientation = Decoding.of(self.recipe).orientation
        workers = num_workers(self.recipe, device) if self.names is not None and len(own) else 0
        self.model.eval()
        with (
            closing(progress),
            WindowWriter(path, self.windows, own.tolist(), marked) as writer,
            drawer(workers, Decoding(orientation)) as drawing,
        ):
            readable = self._readable(batches, writer, problems, check, stop)
            for batch, found in overlapped(self.model, readable, device, dtype):
                self._put(batch, found, writer, drawing)
                writer.write()
                if processes.is_main and progress.due():
                    progress.draw(self.count, f"{self.count / (time.perf_counter() - started):.1f} images/s")
            writer.write(last=True)

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
                labels = labels_of(own, self.categories, self.options.score)
                future = drawing.draw(picture, decoded, labels, self.names[index])
                self.drawn += len(labels)
            line = Line(picture.name, int(self.ids[index]), *decoded.size, detections_of(own))
            writer.put(index, encode(line), future)
        self.count += len(batch.indices)


def _settings(
    pictures: Pictures, windows: Windows, recipe: Recipe, options: PredictOptions
) -> dict[str, Any]:
    """What the lines depend on."""
    return {
        "checkpoint": options.made_by,
        "pictures": len(pictures),
        "names": pictures.digest(),
        "batch_size": windows.batch_size,
        "precision": recipe.precision,
    }
