"""How many threads a run computes with: as many as there are cores that other programs leave."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Load:
    """A moment's count of what the machine's cores and this process have done, in seconds of one core.

    Two moments apart tell what the others have used in between. Where Linux' counts cannot be read, they used nothing.
    """

    time: float
    busy: float
    own: float

    @classmethod
    def now(cls) -> Load:
        """The counts of this moment."""
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.monotonic(), _busy_seconds(), own)

    def others_since(self, start: Load) -> float:
        """How many cores other programs kept busy since ``start``, on average."""
        seconds = max(self.time - start.time, 1e-9)
        return max(0.0, (self.busy - start.busy) - (self.own - start.own)) / seconds


def choose_threads(cores: int, others: float) -> int:
    """Threads to compute with on ``cores`` of which ``others`` are busy with other work.

    A thread on a core that is shared makes all others wait for it at the end of every operation: on two cores beside
    one busy process, one thread is almost twice as fast as two.
    """
    return max(1, cores - round(others))


def set_threads(wanted: int, start: Load) -> str:
    """Set the number of threads of PyTorch's operations, and say why it is what it is.

    Args:
        wanted: the number; 0 chooses, unless OMP_NUM_THREADS has chosen already.
        start: a moment of this program to judge by what other programs have used since.
    """
    import torch

    cores, others = available_cores(), Load.now().others_since(start)
    reason = ""
    if wanted == 0 and "OMP_NUM_THREADS" in os.environ:
        wanted, reason = torch.get_num_threads(), " (OMP_NUM_THREADS)"
    elif wanted == 0:
        wanted = choose_threads(min(cores, torch.get_num_threads()), others)
        if wanted < cores and others >= 0.5:
            reason = f": other programs keep {others:.1f} of {cores} cores busy (--threads changes it)"
    torch.set_num_threads(wanted)
    return f"{wanted} thread{'s' if wanted > 1 else ''}{reason}"


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _busy_seconds() -> float:
    try:
        words = STAT.read_text().split("\n", 1)[0].split()
        user, nice, system, _, _, irq, softirq = (int(word) for word in words[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0
