"""The memory of a process and of all that it started; a page that processes share counts once."""

from __future__ import annotations

import os
from pathlib import Path

KINDS = ("Pss", "Pss_Anon", "Pss_File", "Pss_Shmem")


def process_set(root: int | None = None) -> list[int]:
    """The ids of a process (by default this one) and of its children, and theirs."""
    found = [root or os.getpid()]
    for pid in found:  # which grows
        for task in _tasks(pid):
            try:
                found += map(int, (task / "children").read_text().split())
            except OSError:  # ended meanwhile
                continue
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def pss(pids: list[int]) -> dict[str, float]:
    """Sums over processes of each kind of proportional set size (``smaps_rollup``, man 5 proc), in MB of 10^6 bytes."""
    total = dict.fromkeys(KINDS, 0.0)
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            kind, _, value = line.partition(":")
            if kind in total:
                total[kind] += int(value.split()[0]) * 1024 / 1e6
    return total
