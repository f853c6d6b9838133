"""Tells the processes of a run when one of them has died, so that none waits for it."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress
from datetime import timedelta

import torch.distributed as dist

from retinanet_fast.engine.errors import Stopped

SECONDS_BETWEEN = 2.0
# A process that has not been heard of for so long is dead: its heart beats in a thread of its own, whatever it does.
SECONDS_TO_DEATH = 30.0
EXIT_CODE = 1
# Last words of a process.
LEFT, FAILED = "left", "failed"


class Heartbeat:
    """Beats in this process, and listens to the others, on the store that brought them together.

    Where one is silent or has failed, this process says so and exits at once: it is likely to be inside a collective
    call that will not end, from which no exception can be raised. What was saved is whole.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A connection of its own: that of the process group is held by a call that waits.
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=SECONDS_TO_DEATH))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self.store = dist.PrefixStore(f"heartbeat {attempt}", store)
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self.thread.join()
        with suppress(RuntimeError):  # the store may be gone with its process
            self.store.set(str(self.rank), LEFT if kind in (None, Stopped) else FAILED)

    def _run(self) -> None:
        heard = [(b"", time.monotonic())] * self.world_size
        count = 0
        while not self._over.wait(SECONDS_BETWEEN):
            count += 1
            try:
                self.store.set(str(self.rank), str(count))
                for other in range(self.world_size):
                    heard[other] = self._listen(other, *heard[other])
            except RuntimeError:  # torch's DistError among them
                if not self._over.is_set():
                    self._give_up("the process that keeps the others together is gone")

    def _listen(self, other: int, before: bytes, when: float) -> tuple[bytes, float]:
        """What the process ``other`` last said, and when."""
        now = self.store.get(str(other)) if self.store.check([str(other)]) else b""
        who = f"process {other} of {self.world_size}"
        if now == FAILED.encode():
            self._give_up(f"{who} has failed")
        if now not in (before, LEFT.encode()):
            return now, time.monotonic()
        if now != LEFT.encode() and time.monotonic() - when > SECONDS_TO_DEATH:
            self._give_up(f"{who} has not been heard of for {SECONDS_TO_DEATH:.0f} s")
        return now, when

    def _give_up(self, reason: str) -> None:
        print(
            f"retinanet-fast: {reason}: process {self.rank} leaves; --resume goes on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE)
