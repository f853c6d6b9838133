"""Detects on pictures: a line of json for each as it goes, COCO's results at the end, and drawings."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retinanet_fast.engine.build_model import build_model
from retinanet_fast.engine.checkpoint import Checkpoint, find, restore
from retinanet_fast.engine.data.split import Category
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.evaluation.detect import LARGEST_BATCH
from retinanet_fast.engine.prediction.batches import Windows
from retinanet_fast.engine.prediction.draw import to_picture
from retinanet_fast.engine.prediction.drawing import DrawnNames
from retinanet_fast.engine.prediction.folder import PredictionFolder
from retinanet_fast.engine.prediction.lines import write_coco
from retinanet_fast.engine.prediction.pictures import Pictures
from retinanet_fast.engine.prediction.work import Work
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.models import RetinaNet

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
    work = Work(model, categories, recipe, pictures, windows, options.score, processes)
    with ExitStack() as held:
        begun = None
        with processes.patiently():
            if processes.is_main:
                held.enter_context(folder.locked())
                names = DrawnNames(pictures, options.out) if options.draw else None
                settings = _settings(pictures, windows, work.dtype, options)
                done = folder.begin(settings, options.resume, options.overwrite)
                begun = names, np.flatnonzero(~done), processes.world_size > 1 or folder.has_parts
        work.names, wanted, in_parts = processes.share(begun)
        own = wanted[processes.rank :: processes.world_size]
        path = folder.part(processes.rank) if in_parts else folder.lines
        started = time.perf_counter()
        told = len(problems.messages)
        with processes.patiently() as check:
            work.run(own, path, in_parts, problems, check, stop)
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


def _settings(
    pictures: Pictures, windows: Windows, dtype: torch.dtype, options: PredictOptions
) -> dict[str, Any]:
    """What the lines depend on."""
    return {
        "checkpoint": options.made_by,
        "pictures": len(pictures),
        "names": pictures.digest(),
        "batch_size": windows.batch_size,
        "precision": str(dtype).removeprefix("torch."),
    }
