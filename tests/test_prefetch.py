"""Batches on their way to a device; the streams of a GPU are stand-ins here, test_gpu.py has the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.training.prefetch import DevicePrefetcher
from retinanet_fast.nn import BatchSizes, pad_targets


def batch_of(shapes: list[tuple[int, int]]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (3, *shape), generator=generator, dtype=torch.uint8) for shape in shapes]
    target = {"boxes": torch.tensor([[1.0, 2.0, 9.0, 8.0]]), "labels": torch.tensor([1])}
    sizes = BatchSizes(tuple((2 * height, 2 * width) for height, width in shapes), (64, 64))
    return Batch(images, pad_targets([target] * len(images)), sizes, list(range(len(images))))


def test_on_the_cpu_batches_are_passed_on() -> None:
    steps = [[object()], [object(), object()]]
    found = list(DevicePrefetcher(iter(steps), torch.device("cpu")))  # type: ignore[arg-type]
    assert all(a is b for a, b in zip(found, steps, strict=True))


class Log(list[str]):
    """What the stand-ins of CUDA are told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.current = "compute"


class Stream:
    def __init__(self, log: Log, name: str) -> None:
        self.log, self.name = log, name

    def wait_event(self, event: str) -> None:
        self.log.append(f"{self.name} waits for {event}")

    def record_event(self) -> str:
        return f"{self.log[-1]}"


class StandIn:
    """In the place of a batch."""

    def __init__(self, log: Log, name: str) -> None:
        self.log, self.name = log, name

    def to(self, device: torch.device) -> StandIn:
        self.log.append(f"copy {self.name} on {self.log.current}")
        return self

    def record_stream(self, stream: Stream) -> None:
        self.log.append(f"{self.name} is used by {stream.name}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    log = Log()

    @contextmanager
    def stream(used: Stream) -> Iterator[None]:
        log.current = used.name
        yield
        log.current = "compute"

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(log, "side"))
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream(log, log.current))
    return log


def test_a_step_is_copied_during_the_one_before_it(log: Log) -> None:
    steps: Any = iter([[StandIn(log, "a")], [StandIn(log, "b")]])
    prefetcher = DevicePrefetcher(steps, torch.device("cuda"))
    assert log == []
    for batches in prefetcher:
        log.append(f"step {batches[0].name}")  # type: ignore[attr-defined]
    assert log == [
        "copy a on side",
        "copy b on side",
        "compute waits for copy a on side",
        "a is used by compute",
        "step a",
        "compute waits for copy b on side",
        "b is used by compute",
        "step b",
    ]


def test_an_error_comes_in_its_turn(log: Log) -> None:
    def steps() -> Iterator[Any]:
        yield [StandIn(log, "a")]
        raise InputError("b is broken")

    prefetcher = DevicePrefetcher(steps(), torch.device("cuda"))
    assert next(prefetcher)[0].name == "a"  # type: ignore[attr-defined]
    for _ in range(2):
        with pytest.raises(InputError, match="b is broken"):
            next(prefetcher)


def test_a_packed_batch_has_the_same_images() -> None:
    batch = batch_of([(20, 30), (25, 10)])
    packed = batch.pack()
    assert packed.packed is not None
    assert packed.packed.pixels.shape == (2, 3, 25, 30)
    assert packed.packed.batch_sizes == batch.sizes
    assert all(torch.equal(a, b) for a, b in zip(packed.images, batch.images, strict=True))
    changed: list[Tensor] = []

    def change(tensor: Tensor) -> Tensor:
        changed.append(tensor)
        return tensor.clone()

    copied = packed._each(change)
    # One copy for all images, two for their sizes, three for the targets; the images are parts of the first.
    assert len(changed) == 6
    assert copied.packed is not None
    memory = copied.packed.pixels.untyped_storage().data_ptr()
    assert {image.untyped_storage().data_ptr() for image in copied.images} == {memory}
    assert all(torch.equal(a, b) for a, b in zip(copied.images, batch.images, strict=True))
    assert copied.device == torch.device("cpu")
