"""The whole-step CUDA graph, rehearsed without a GPU: the stand-in of a graph computes the captured step again at each
replay, from the tensors that it was captured with. test_gpu.py has the real one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from step_cases import batch_of, run_of, weighted_losses
from torch import Tensor

from retinanet_fast.engine.data.batch import Batch
from retinanet_fast.engine.errors import InputError
from retinanet_fast.engine.processes import Processes
from retinanet_fast.engine.training import graphed
from retinanet_fast.engine.training.graphed import MAX_GRAPHS, WARM_UP, GraphedStep, check_number, shape_of
from retinanet_fast.engine.training.step import TrainStep


class Stand:
    """In the place of a CUDA graph."""

    def __init__(self) -> None:
        self.again: Callable[[], None] | None = None

    def pool(self) -> int:
        return 1

    def replay(self) -> None:
        assert self.again is not None
        self.again()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """GraphedStep on the CPU; the options of each capture."""
    captures: list[dict[str, Any]] = []
    calls: list[tuple[TrainStep, Sequence[Batch], Sequence[Tensor], Tensor]] = []
    compute = TrainStep.compute

    def recorded(step: TrainStep, shares: Sequence[Batch], marks: Sequence[Tensor]) -> Tensor:
        found = compute(step, shares, marks)
        calls.append((step, shares, marks, found))
        return found

    @contextmanager
    def graph(stand: Stand, **options: Any) -> Iterator[None]:
        """As a capture does, it leaves everything as it was."""
        captures.append(options)
        step = captures_of.step
        tensors = all_tensors(step)
        before = [tensor.detach().clone() for tensor in tensors]
        with torch.random.fork_rng(devices=[]):
            yield
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
        _, shares, marks, found = calls[-1]
        stand.again = lambda: void(found.copy_(compute(step, shares, marks)))

    captures_of = SimpleNamespace(step=None)
    made = GraphedStep.__init__

    def init(step: GraphedStep, *arguments: Any) -> None:
        made(step, *arguments)
        captures_of.step = step

    stream = SimpleNamespace(wait_stream=void)
    monkeypatch.setattr(graphed, "check_run", void)
    monkeypatch.setattr(GraphedStep, "__init__", init)
    monkeypatch.setattr(TrainStep, "compute", recorded)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Stand)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    return captures


def void(*_: Any) -> None:
    pass


def all_tensors(step: TrainStep) -> list[Tensor]:
    state = step.run.state
    moments = [tensor for of in state.optimizer.state.values() for tensor in of.values()]
    averages = [] if state.ema is None else list(state.ema.model.state_dict().values())
    return [*state.model.state_dict(keep_vars=True).values(), *moments, *averages, step.stuck]


def test_replays_are_the_steps(captures: list[dict[str, Any]]) -> None:
    """With batches of two shapes, raw images of all sizes, a rate and flags that change, and a step that is bad."""
    plain, step = TrainStep(run_of(), weighted_losses), GraphedStep(run_of(), weighted_losses)
    for number in range(2 * (WARM_UP + 3)):
        batch = batch_of(number, images=2 + number % 2)
        batch.targets["factor"] = torch.tensor(torch.nan if number == 8 else 1.0)  # 8 is a replay
        arguments: Any = ([batch], 1e-3 * (number + 1), (number == 7, number == 9))
        expected = plain(*arguments)
        found = step(*arguments)
        assert bool(expected[2]) == (number == 8)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        for each in (plain, step):
            each.run.state.step += 1
            each.stuck.zero_()
        assert step.names == plain.names
    assert all(torch.equal(a, b) for a, b in zip(all_tensors(plain), all_tensors(step), strict=True))
    # Threads that load data may call CUDA during a capture; the second graph has the first one's memory.
    assert [options["capture_error_mode"] for options in captures] == ["thread_local"] * 2
    assert [options["pool"] for options in captures] == [None, 1]


def test_larger_raw_images_are_captured_anew(captures: list[dict[str, Any]], monkeypatch: Any) -> None:
    monkeypatch.setattr(graphed, "ROOM", 1)
    plain, step = TrainStep(run_of()), GraphedStep(run_of())
    for number in range(WARM_UP + 4):
        batch = batch_of(0)
        if number == WARM_UP + 1:
            wide = torch.zeros(3, 30, 200, dtype=torch.uint8)
            batch = replace(batch, images=[wide, batch.images[1]], packed=None).pack()
        expected, found = plain([batch], 1e-3), step([batch], 1e-3)
        assert torch.equal(found, expected)
    # The second has room for the tall ones of before as well.
    assert len(captures) == 2


def test_one_shape_too_many_is_refused() -> None:
    known: Counter[Any] = Counter()
    for number in range(MAX_GRAPHS):
        shape = shape_of([batch_of(0, padded=(64, 64 + 32 * number))])
        check_number(known, shape)
        known[shape] += 1
    check_number(known, shape)  # a known one
    text = r"cuda_graph: expected at most 8 shapes .*2 images padded to 96x64 with room for 4 boxes each; one min_size"
    with pytest.raises(InputError, match=text):
        check_number(known, shape_of([batch_of(0, padded=(96, 64))]))


def test_shapes_tell_what_a_graph_has_fixed() -> None:
    same = shape_of([batch_of(0)])
    assert shape_of([batch_of(1)]) == same  # other raw and resized sizes
    others = [batch_of(0, images=3), batch_of(0, padded=(64, 64)), batch_of(0, rows=8)]
    others.append(replace(batch_of(0), weight=0.5))
    assert len({same, *(shape_of([other]) for other in others)}) == 5
    assert shape_of([batch_of(0)] * 2) != same


def test_lists_of_images_are_refused(captures: list[dict[str, Any]]) -> None:
    step, batch = GraphedStep(run_of()), replace(batch_of(0), packed=None)
    for _ in range(WARM_UP):
        step([batch], 1e-3)
    with pytest.raises(ValueError, match="expected packed batches"):
        step([batch], 1e-3)


def test_without_a_gpu_or_with_several_processes_it_is_refused() -> None:
    with pytest.raises(InputError, match="cuda_graph: expected a GPU, the device is cpu"):
        GraphedStep(run_of())
    run = run_of()
    run.device, run.processes = torch.device("cuda"), Processes(0, 2)
    with pytest.raises(InputError, match="cuda_graph: expected one process, got 2"):
        GraphedStep(run)
