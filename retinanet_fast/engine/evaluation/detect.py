"""Detections on a split, its batches shared out to the processes of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from retinanet_fast.engine.data.dataset import CocoDataset, Sample, category_ids, readable, to_model
from retinanet_fast.engine.data.decode import Decoding
from retinanet_fast.engine.data.loader import eval_loader, read
from retinanet_fast.engine.data.split import Category, Split
from retinanet_fast.engine.errors import InputError, Problems
from retinanet_fast.engine.evaluation.results import Detected, Results, concatenate, from_batch, pack
from retinanet_fast.engine.precision import autocast, resolve
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.recipe import Recipe
from retinanet_fast.engine.reporting.progress import Progress
from retinanet_fast.models import RetinaNet
from retinanet_fast.structures import Detections

# Images at a time, where a step's are not fewer: large enough for a GPU, small enough to share out to many.
LARGEST_BATCH = 16

Key = TypeVar("Key")


def detect(
    model: nn.Module,
    split: Split,
    categories: list[Category],
    recipe: Recipe,
    device: torch.device,
    problems: Problems,
    processes: Processes | None = None,
    stop: Callable[[], None] | None = None,
    batch_size: int | None = None,
) -> Detected | None:
    """Run the model over every image of a split, once, in the processes together.

    Args:
        categories: the model's.
        problems: of all processes, in the main one.
        stop: called between batches; raises ``Stopped`` where the work is to end.
        batch_size: images at a time, by default ``recipe.batch_size``, at most 16. Detections at an image's border
            depend on what the batch is padded to, and so on this, but not on the number of processes.

    Returns:
        The same for any number of processes, in the main one; None in the others.

    Raises:
        InputError: in every process: no image of the split can be read, or one cannot and bad ones are not skipped.
        Stopped: in every process: ``stop`` raised it in one.
        ProcessLost: another process failed by a defect.
    """
    processes = processes or Processes()
    dataset = CocoDataset(split, categories, decoding=Decoding.of(recipe))
    ids = category_ids(categories, split)
    size = batch_size or min(recipe.batch_size, LARGEST_BATCH)
    loader = eval_loader(dataset, size, recipe, device, processes.rank, processes.world_size)
    dtype = resolve(recipe.precision, device)
    results: list[Results] = []
    image_ids: list[int] = []
    told = len(problems.messages)
    progress = Progress("evaluate", len(dataset))
    started = time.perf_counter()
    model.eval()
    processes.spread_(model.buffers())  # each has batch norm's statistics of its own images
    with closing(progress), processes.patiently() as check:
        for samples, found in overlapped(model, _batches(loader, problems, check, stop), device, dtype):
            batch_ids = [sample.image_id for sample in samples]
            image_ids += batch_ids
            results.append(
                from_batch(found, batch_ids, ids, [(sample.size, sample.scale) for sample in samples])
            )
            if processes.is_main and progress.due():
                done = min(len(dataset), len(image_ids) * processes.world_size)
                progress.draw(done, f"{done / (time.perf_counter() - started):.1f} images/s")
    seconds = time.perf_counter() - started
    parts = processes.gather((concatenate(results), image_ids, problems.messages[told:]))
    for message in (message for _, _, messages in parts for message in messages):
        problems.report(message)
    read_ids = sorted(image_id for _, part, _ in parts for image_id in part)
    if processes.share(len(read_ids)) == 0:
        raise InputError(f"{split.annotations}: no usable image: the data set is empty")
    if not processes.is_main:
        return None
    return Detected(concatenate([part for part, _, _ in parts]).by_image(), read_ids, len(read_ids) / seconds)


@torch.no_grad()
def run_batch(model: nn.Module, images: list[Tensor], dtype: torch.dtype) -> Detections:
    """The detections of a model on images that are on its device, computed in ``dtype``.

    Args:
        model: a ``RetinaNet``, which is not waited for, or any detector that returns one dict per image.
    """
    with autocast(images[0].device, dtype):
        if isinstance(model, RetinaNet):
            return model.detect_batch(images)
        return pack(model(images))


def _batches(
    loader: DataLoader[Any],
    problems: Problems,
    check: Callable[[], None],
    stop: Callable[[], None] | None,
) -> Iterator[tuple[list[Sample], list[Tensor]]]:
    """Each batch's readable images, and their pixels."""
    for batch in read(loader):
        check()
        if stop is not None:
            stop()
        if samples := readable(batch, problems):
            yield samples, [sample.image for sample in samples]


def overlapped(
    model: nn.Module,
    batches: Iterator[tuple[Key, list[Tensor]]],
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[tuple[Key, Detections]]:
    """Each batch's detections, on the CPU, with what came with its images. A GPU has the next batch to do while one is
    read."""
    before: tuple[Key, Detections, torch.cuda.Event | None] | None = None
    for key, images in batches:
        found, copied = _to_host(run_batch(model, to_model(images, device), dtype))
        if before is not None:
            yield _waited_for(*before)
        before = key, found, copied
    if before is not None:
        yield _waited_for(*before)


def _to_host(found: Detections) -> tuple[Detections, torch.cuda.Event | None]:
    if found.boxes.device.type != "cuda":
        return found.to("cpu"), None
    fields = (found.boxes, found.scores, found.labels, found.counts)
    copies = Detections(*(tensor.to("cpu", non_blocking=True) for tensor in fields))
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(found.boxes.device))
    return copies, copied


def _waited_for(key: Key, found: Detections, copied: torch.cuda.Event | None) -> tuple[Key, Detections]:
    if copied is not None:
        copied.synchronize()
    return key, found
