"""Blocks of work at whose end the processes of a run wait for each other, for as long as it takes."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch.distributed as dist

from retinanet_fast.engine.errors import InputError, ProcessLost, Stopped, TrainingError, one_line

# Seconds between two looks at the others: at the end of a block, and in the midst of its work.
LOOK = 0.1
LOOK_AT_WORK = 1.0
# Seconds that a process stays at its end for the others to learn of it.
FAREWELL = 15.0

# What one process raises in a block, all raise; anything else is a defect of that process.
SHARED = (InputError, TrainingError, Stopped, ProcessLost)


@dataclass
class Meeting:
    """A block of work that takes the processes different and unknown times. At its end each waits for all.

    The wait has no limit, unlike a collective call's: the heartbeat tells of a process that died. An error in one
    process is raised in all, by way of the key-value store that brought them together.
    """

    store: dist.Store
    rank: int
    world_size: int
    name: str
    _looked: float = field(default_factory=time.monotonic)

    @contextmanager
    def block(self) -> Iterator[None]:
        """The block. Raises what another process raised in it: ``ProcessLost`` for what is no error of ours."""
        try:
            yield
            self._wait_for_all()
        except BaseException as error:
            with suppress(ProcessLost):  # the error itself is what counts
                self._tell(error)
            raise

    def check(self) -> None:
        """In the midst of the work: raise if another process has. Looks at most once a second."""
        if time.monotonic() - self._looked >= LOOK_AT_WORK:
            self._look()

    def _wait_for_all(self) -> None:
        done = self._add("done", 1)
        while done < self.world_size:
            time.sleep(LOOK)
            self._look()
            done = self._add("done", 0)
        # The first process may keep the store: it leaves last, for the others to learn that all are there.
        last, left = time.monotonic() + FAREWELL, self._add("left", 1)
        while self.rank == 0 and left < self.world_size and time.monotonic() < last:
            time.sleep(LOOK / 10)
            left = self._add("left", 0)

    def _look(self) -> None:
        self._looked = time.monotonic()
        if self._add("failed", 0):
            raise pickle.loads(self.store.get(f"{self.name}/error"))

    def _tell(self, error: BaseException) -> None:
        if not self._add("failed", 0):
            if not isinstance(error, SHARED):
                error = ProcessLost(f"process {self.rank} failed: {type(error).__name__}: {one_line(error)}")
            self.store.set(f"{self.name}/error", pickle.dumps(error))  # type: ignore[arg-type]  # bytes are taken
            self._add("failed", 1)
        last = time.monotonic() + FAREWELL
        know = self._add("know", 1)
        while know < self.world_size and time.monotonic() < last:
            time.sleep(LOOK)
            know = self._add("know", 0)

    def _add(self, key: str, amount: int) -> int:
        try:
            return self.store.add(f"{self.name}/{key}", amount)
        except RuntimeError:  # of which torch's errors of the network are
            raise ProcessLost("the process that keeps the others together is gone") from None
