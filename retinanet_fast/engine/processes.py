"""The processes of a run, as ``torchrun`` starts them; a plain start is one process."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _get_default_store

from retinanet_fast.engine.errors import InputError, ProcessLost, one_line
from retinanet_fast.engine.heartbeat import Heartbeat
from retinanet_fast.engine.meeting import Meeting

# A collective call waits this long for a process that lives, but does not come: the heartbeat tells of one that died.
# Work that takes longer in one process than in another, such as COCO's numbers, is waited for at the end of
# `Processes.patiently`, which has no such limit.
PATIENCE = timedelta(minutes=10)

_meetings = itertools.count()  # a name for each, the same in every process


@dataclass(frozen=True)
class Processes:
    """This process among those of a run. Alone, every collective call does nothing.

    Every process must make the same collective calls in the same order.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def own_device(self, device: torch.device) -> torch.device:
        """The device of this process where several share a machine with several GPUs and none was named."""
        if self.world_size > 1 and device.type == "cuda" and device.index is None:
            return torch.device("cuda", self.local_rank)
        return device

    def sum_(self, tensor: Tensor) -> Tensor:
        """``tensor``, changed in place to its sum over the processes."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def spread_(self, tensors: Iterable[Tensor]) -> None:
        """Change each tensor in place to the main process's."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor.detach(), 0)

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, by rank, in the main process; an empty list in the others. Arrays travel whole."""
        if self.world_size == 1:
            return [value]
        values: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, values)
        return values or []

    def share(self, value: Any) -> Any:
        """The main process's value, in every process."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    @contextmanager
    def patiently(self) -> Iterator[Callable[[], None]]:
        """A block of work that one process may be hours longer at than another. At its end each waits for all.

        An error in one process is raised in all, ``Stopped`` too. The block gets a function that raises it: call it
        now and then in long work. ::

            with processes.patiently():
                if processes.is_main:
                    numbers = evaluate(split, found.results)

        Raises:
            ProcessLost: another process has gone, or failed by a defect.
        """
        if self.world_size == 1:
            yield lambda: None
            return
        # The process group's own store is free: no collective call is going on.
        meeting = Meeting(_get_default_store(), self.rank, self.world_size, f"meeting {next(_meetings)}")
        with meeting.block():
            yield meeting.check


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Join the other processes for the time of the block: NCCL on GPUs, gloo on CPUs.

    Raises:
        InputError: ``torchrun``'s variables are set, but not whole.
        ProcessLost: a collective call in the block failed, since another process is gone.
    """
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        yield Processes()
        return
    try:
        rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank = int(os.environ.get("LOCAL_RANK", rank))
    except ValueError as error:
        raise InputError(
            f"RANK, WORLD_SIZE, LOCAL_RANK: expected numbers, as torchrun sets them: {error}"
        ) from None
    if world_size == 1:
        yield Processes()
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(
            local_rank if device.index is None else device.index
        )  # that of objects' collectives
    dist.init_process_group(backend, timeout=PATIENCE)
    try:
        with Heartbeat(rank, world_size):
            yield Processes(rank, world_size, local_rank)
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, which name its source files.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise ProcessLost(
            f"another process of the run is gone ({one_line(error)}); --resume goes on from the last checkpoint"
        ) from None
    finally:
        dist.destroy_process_group()
