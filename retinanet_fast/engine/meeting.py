"""Processes that wait for each other for as long as the others are alive, which a collective call does not."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch.distributed as dist

from retinanet_fast.engine.data.coco import one_line
from retinanet_fast.engine.errors import InputError, ProcessLost, Stopped, TrainingError

# Seconds between a process's signs of life, and without one until it is taken for lost.
BEAT = 3.0
SILENCE = 40.0
# Seconds between two looks at the others: at the end of a block, and in the midst of its work.
LOOK = 0.1
LOOK_AT_WORK = 2.0
# Seconds that the main process, which may keep the store, stays after an error for the others to learn of it.
FAREWELL = 10.0

# What one process raises in a block, all raise; anything else is a defect of that process.
SHARED = (InputError, TrainingError, Stopped, ProcessLost)


@dataclass
class Meeting:
    """A block of work that takes the processes different and unknown times. At its end each waits for all.

    While a process is in the block, a thread of its own counts up on the processes' key-value store. So a process that
    was killed is told from a busy one. An error in one process is raised in all.
    """

    store: dist.Store
    rank: int
    world_size: int
    name: str
    _beats: dict[int, int] = field(default_factory=dict)
    _heard: dict[int, float] = field(default_factory=dict)
    _looked: float = field(default_factory=time.monotonic)

    @contextmanager
    def block(self) -> Iterator[None]:
        """The block. Raises ``ProcessLost``, and what another process raised (see ``SHARED``)."""
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(over,), daemon=True)
        beating.start()
        try:
            yield
            self._wait_for_all()
        except BaseException as error:
            with suppress(ProcessLost):  # the error itself is what counts
                self._tell(error)
            raise
        finally:
            over.set()
            beating.join()

    def check(self) -> None:
        """In the midst of the work: raise if another process failed or is gone. Looks at most every other second."""
        if time.monotonic() - self._looked >= LOOK_AT_WORK:
            self._look()

    def _beat(self, over: threading.Event) -> None:
        with suppress(ProcessLost):  # the block's own thread finds it too
            while True:
                self._add(f"beats {self.rank}", 1)
                if over.wait(BEAT):
                    return

    def _wait_for_all(self) -> None:
        self._add(f"done {self.rank}", 1)
        done = self._add("done", 1)
        while done < self.world_size:
            time.sleep(LOOK)
            self._look()
            done = self._add("done", 0)
        self._say_goodbye(SILENCE)

    def _look(self) -> None:
        self._looked = now = time.monotonic()
        if self._add("failed", 0):
            with self._lost_if_gone():
                error = pickle.loads(self.store.get(f"{self.name}/error"))
            raise error
        for rank in range(self.world_size):
            beats = self._add(f"beats {rank}", 0)
            if beats != self._beats.get(rank):
                self._beats[rank], self._heard[rank] = beats, now
            elif now - self._heard[rank] > SILENCE and not self._add(f"done {rank}", 0):
                raise ProcessLost(f"process {rank} has given no sign of life for {SILENCE:.0f} s: it is gone")

    def _tell(self, error: BaseException) -> None:
        if not self._add("failed", 0):
            if not isinstance(error, SHARED):
                error = ProcessLost(f"process {self.rank} failed: {type(error).__name__}: {one_line(error)}")
            with self._lost_if_gone():
                self.store.set(f"{self.name}/error", pickle.dumps(error))  # type: ignore[arg-type]  # bytes are taken
            self._add("failed", 1)
        self._say_goodbye(FAREWELL)

    def _say_goodbye(self, seconds: float) -> None:
        """The main process may keep the store, so it leaves last; it does not wait for ever."""
        if self.rank > 0:
            self._add("left", 1)
            return
        last = time.monotonic() + seconds
        while self._add("left", 0) < self.world_size - 1 and time.monotonic() < last:
            time.sleep(LOOK)

    def _add(self, key: str, amount: int) -> int:
        with self._lost_if_gone():
            return self.store.add(f"{self.name}/{key}", amount)

    @contextmanager
    def _lost_if_gone(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of which PyTorch's errors of the network are
            raise ProcessLost(
                f"the processes' store is gone, with the process that kept it: {one_line(error)}"
            ) from None
