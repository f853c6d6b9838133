"""A whole step as one CUDA graph: the host starts some thousand kernels by one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.training.run import Run
from retinanet_fast.engine.training.step import Losses, TrainStep, detector_losses
from retinanet_fast.nn import PackedImages

# Steps of a shape that are taken without a graph first: libraries choose their kernels and allocate.
WARM_UP = 3
MAX_GRAPHS = 8
# Sides of the tensor of raw images are multiples of this, so that a graph is seldom too small for a later batch.
ROOM = 256


class Shape(NamedTuple):
    """What a captured step has fixed of a share."""

    images: int
    padded: tuple[int, int]
    boxes: int
    weight: float


class GraphedStep(TrainStep):
    """``TrainStep`` that captures forward, backward, clipping and optimizer once per shape, and replays them.

    A shape is the number of images, the padded size and the rows of the padded targets. The first ``WARM_UP`` steps of
    each are ordinary ones. What changes from step to step (images, sizes, targets, learning rate, loss scale, flags) is
    in tensors that the graph reads. The graphs share their memory; the averaged weights are updated outside.

    Raises:
        InputError: not on a GPU, or several processes, whose exchange is not captured; and in a step, where batches
            have more than ``MAX_GRAPHS`` shapes.
    """

    def __init__(self, run: Run, losses: Losses = detector_losses) -> None:
        check_run(run)
        super().__init__(run, losses)
        self._graphs: dict[tuple[Shape, ...], _Graph] = {}
        self._steps: Counter[tuple[Shape, ...]] = Counter()
        self._stream = torch.cuda.Stream(run.device)

    def compute(self, shares: Sequence[Batch], marks: Sequence[Tensor]) -> Tensor:
        shape = shape_of(shares)
        if shape not in self._graphs and self._steps[shape] < WARM_UP:
            check_number(self._steps, shape)
            self._steps[shape] += 1
            return self._warm_up(shares, marks)
        graph = self._graphs.get(shape)
        if graph is None or not graph.holds(shares):
            graph = self._graphs[shape] = self._capture(shares, marks, graph)
        graph.take(shares, marks)
        with self.run.clock("graph"):
            graph.graph.replay()
        return graph.found.clone()  # the next replay writes over it

    def _warm_up(self, shares: Sequence[Batch], marks: Sequence[Tensor]) -> Tensor:
        """On a stream that is not the default one, as it will be captured."""
        current = torch.cuda.current_stream(self.run.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = super().compute(shares, marks)
        current.wait_stream(self._stream)
        return found

    def _capture(self, shares: Sequence[Batch], marks: Sequence[Tensor], old: _Graph | None) -> _Graph:
        graph = _Graph(shares, marks, [] if old is None else old.shares)
        pool = next((other.graph.pool() for other in self._graphs.values()), None)
        self.clock = _no_clock  # its events cannot be read in a graph
        try:
            # Threads that load data may call CUDA meanwhile.
            with torch.cuda.graph(
                graph.graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                graph.found = super().compute(graph.shares, graph.marks)
        finally:
            self.clock = self.run.clock
        return graph


class _Graph:
    """A captured step and the tensors that it reads and writes."""

    def __init__(self, shares: Sequence[Batch], marks: Sequence[Tensor], old: Sequence[Batch]) -> None:
        self.graph = torch.cuda.CUDAGraph()
        smaller: Sequence[Batch | None] = old or [None] * len(shares)
        self.shares = [_with_room(share, before) for share, before in zip(shares, smaller, strict=True)]
        self.marks = [mark.clone() for mark in marks]
        self.found = torch.empty(0)

    def holds(self, shares: Sequence[Batch]) -> bool:
        """Whether the raw images of the shares fit in."""
        return all(
            new <= room
            for own, share in zip(self.shares, shares, strict=True)
            for new, room in zip(packed(share).pixels.shape[-2:], packed(own).pixels.shape[-2:], strict=True)
        )

    def take(self, shares: Sequence[Batch], marks: Sequence[Tensor]) -> None:
        """Let the next replay read these."""
        for own, share in zip(self.shares, shares, strict=True):
            to, new = packed(own), packed(share)
            height, width = new.pixels.shape[-2:]
            to.pixels[:, :, :height, :width].copy_(new.pixels)
            to.sizes.copy_(new.sizes)
            to.resized.copy_(new.resized)
            for name, tensor in own.targets.items():
                tensor.copy_(share.targets[name])
        for mark, value in zip(self.marks, marks, strict=True):
            mark.copy_(value)


def shape_of(shares: Sequence[Batch]) -> tuple[Shape, ...]:
    """The key of a step's graph."""
    return tuple(
        Shape(len(share.image_ids), share.sizes.padded, share.targets["labels"].shape[1], share.weight)
        for share in shares
    )


def check_run(run: Run) -> None:
    """Refuse a run whose steps cannot be captured.

    Raises:
        InputError: see ``GraphedStep``.
    """
    if run.device.type != "cuda":
        raise InputError(f"cuda_graph: expected a GPU, the device is {run.device}: train without cuda_graph")
    if run.processes.world_size > 1:
        raise InputError(
            f"cuda_graph: expected one process, got {run.processes.world_size}: train without cuda_graph"
        )


def check_number(known: Counter[tuple[Shape, ...]], shape: tuple[Shape, ...]) -> None:
    """Refuse one shape too many.

    Raises:
        InputError: see ``GraphedStep``.
    """
    if shape not in known and len(known) == MAX_GRAPHS:
        images, (height, width), boxes, _ = shape[0]
        raise InputError(
            f"cuda_graph: expected at most {MAX_GRAPHS} shapes of batches, each a graph of its own, got one more: "
            f"{images} images padded to {height}x{width} with room for {boxes} boxes each; one min_size and a larger "
            "size_divisible make fewer shapes; or train without cuda_graph"
        )


def packed(share: Batch) -> PackedImages:
    """The raw images of a share.

    Raises:
        ValueError: they are not in one tensor.
    """
    if share.packed is None:
        raise ValueError("cuda_graph: expected packed batches (Batch.pack), got lists of images")
    return share.packed


def _with_room(share: Batch, before: Batch | None) -> Batch:
    """A share of the same shape in tensors of its own, with room for larger raw images, and for ``before``'s."""
    images = packed(share)
    sides = [-(-side // ROOM) * ROOM for side in images.pixels.shape[-2:]]
    if before is not None:
        sides = [max(pair) for pair in zip(sides, packed(before).pixels.shape[-2:], strict=True)]
    room = images.pixels.new_zeros(len(images), *sides, 3).permute(0, 3, 1, 2)
    own = PackedImages(room, images.sizes.clone(), images.resized.clone(), images.batch_sizes)
    targets = {name: tensor.clone() for name, tensor in share.targets.items()}
    return replace(share, images=[], packed=own, targets=targets, messages=[])


def _no_clock(phase: str) -> AbstractContextManager[None]:
    return nullcontext()
