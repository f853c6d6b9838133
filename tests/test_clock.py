"""The clock of a step's phases, with seconds that the tests set."""

from __future__ import annotations

import pytest
import torch

from retinanet_fast.engine.training import clock as clocks
from retinanet_fast.engine.training.clock import PhaseClock, memory_bytes

CPU = torch.device("cpu")


class Time:
    """A host's or a device's time, which passes where a test says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.passed_by_device = 0.0
        self.events = 0
        self.waits = 0


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: made.now)
    return made


@pytest.fixture
def device_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Stands for a GPU: an event is passed when the device's time, which a test moves, has come to it."""
    made = Time()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing
            made.events += 1
            self.at = 0.0

        def record(self, stream: object) -> None:
            self.at = made.now

        def query(self) -> bool:
            return made.passed_by_device >= self.at

        def synchronize(self) -> None:
            made.waits += 1
            made.passed_by_device = max(made.passed_by_device, self.at)

        def elapsed_time(self, end: Event) -> float:
            assert end.query()
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    return made


def a_step(clock: PhaseClock, time: Time) -> None:
    """A second of data, five of forward with two of loss within, eight of backward; all exact in binary."""
    with clock("data"):
        time.now += 1
    time.now += 16  # no phase's
    with clock("forward"):
        time.now += 4
        with clock("loss"):
            time.now += 2
        time.now += 1
    with clock("backward"):
        time.now += 8


EXPECTED = {"data": 1.0, "forward": 5.0, "loss": 2.0, "backward": 8.0}


def test_a_phase_inside_another_counts_once(time: Time) -> None:
    clock = PhaseClock(CPU)
    a_step(clock, time)
    assert clock.take() == EXPECTED
    assert clock.take() == {}
    a_step(clock, time)
    a_step(clock, time)
    assert clock.take() == {phase: 2 * seconds for phase, seconds in EXPECTED.items()}


def test_a_phase_that_fails_counts(time: Time) -> None:
    clock = PhaseClock(CPU)

    def fail() -> None:
        with clock("forward"), clock("loss"):
            time.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with clock("data"):
        time.now += 1
    assert clock.take() == {"loss": 2.0, "forward": 0.0, "data": 1.0}


def test_a_gpu_is_waited_for_by_take_alone(device_time: Time) -> None:
    clock = PhaseClock(torch.device("cuda"))
    a_step(clock, device_time)
    assert device_time.waits == 0
    assert clock.take() == EXPECTED
    assert device_time.waits > 0


def test_events_are_used_again(device_time: Time) -> None:
    clock = PhaseClock(torch.device("cuda"))
    for _ in range(50):
        a_step(clock, device_time)
        device_time.passed_by_device = device_time.now - 8  # the device is one backward pass behind
    # Two of each of the four phases, and of those of the step before that the device has not passed.
    assert device_time.events <= 16
    assert clock.take() == {phase: 50 * seconds for phase, seconds in EXPECTED.items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_no_phase_synchronises() -> None:
    device = torch.device("cuda")
    clock = PhaseClock(device)
    work = torch.randn(2048, 2048, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            with clock("forward"):
                with clock("loss"):
                    work @ work
                work @ work
    finally:
        torch.cuda.set_sync_debug_mode("default")
    taken = clock.take()
    assert taken.keys() == {"forward", "loss"}
    assert min(taken.values()) > 0
    assert (memory_bytes(device) or 0) >= work.numel() * 4


def test_the_peak_of_memory_is_in_bytes() -> None:
    held = torch.ones(64 << 20, dtype=torch.uint8)
    peak = memory_bytes(CPU)
    assert peak is not None
    assert held.numel() < peak < 1 << 40
