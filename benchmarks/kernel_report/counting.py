"""`python -m benchmarks.kernel_report.counting --json FILE`: what whole calls do, as the emulator counts.

The emulator (tests/emulator, its `counted` variant) runs the CUDA kernels on the CPU and sees every access, warp-wide
operation, barrier and basic block. Calls are of the benchmarks' workloads at their full size, except that of a batch
only some images are run: the other images' blocks would do the same.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import suites  # noqa: F401  registers the workloads
from benchmarks.kernel_report.calls import FULL_BATCH, WORKLOADS
from benchmarks.kernel_report.gpu import CYCLES, L2_BYTES, SECTORS_PER_CYCLE
from benchmarks.kernel_report.x86 import basic_blocks, disassemble
from benchmarks.providers import PROVIDERS
from benchmarks.workload import REGISTRY, Setting
from tests.emulator.library import build, load

# The operators of torch that launch a kernel of their own, inside our ops.
TORCHS = ("aten::fill_", "aten::copy_", "aten::sort", "aten::cumsum", "aten::_foreach_zero_")


class Counter:
    """The emulator's counts of each call."""

    def __init__(self) -> None:
        library = build("counted_emulator") / "counted" / "libemulated_kernels.so"
        self._blocks = sorted(basic_blocks(disassemble(library)), key=lambda block: block.offset)
        torch.set_num_threads(1)
        self._library, _ = load(library)
        self._library.emulator_counts.restype = ctypes.c_char_p

    def _start(self, footprint: int) -> None:
        """From here on, every launch is counted. What a call moves lies in the L2 cache, if it is small enough."""
        n = len(self._blocks)
        cycles = CYCLES if footprint > L2_BYTES else CYCLES | {"dram": CYCLES["l2"]}
        self._library.emulator_count(
            ctypes.c_size_t(n),
            (ctypes.c_uint64 * n)(*(block.offset for block in self._blocks)),
            (ctypes.c_double * n)(*(block.instructions for block in self._blocks)),
            (ctypes.c_double * n)(*(block.divisions64 for block in self._blocks)),
            (ctypes.c_double * (len(cycles) + 1))(*cycles.values(), SECTORS_PER_CYCLE),
        )

    def count(self, workload: str, images: int | None) -> dict[str, Any]:
        whole = 1 if images is None else FULL_BATCH // images
        case = REGISTRY[workload].make(Setting(torch.device("cpu"), most_images=images))
        call = PROVIDERS["ours"].bind(case)
        self._start(case.bytes_moved * whole)
        with profile(activities=[ProfilerActivity.CPU]) as recorded:
            call()
        launches = json.loads(self._library.emulator_counts())
        torchs = {event.key: event.count for event in recorded.key_averages() if event.key in TORCHS}
        return {
            "workload": workload,
            "growth": whole,
            "must_move": case.bytes_moved * whole,
            "torchs": torchs,
            "launches": launches,
        }


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(prog="python -m benchmarks.kernel_report.counting", description=__doc__)
    parse.add_argument("--json", type=Path, required=True)
    parse.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="default: those of the report")
    options = parse.parse_args(arguments)
    try:
        counter = Counter()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    rows = []
    for name in options.workloads or WORKLOADS:
        begin = time.monotonic()
        rows.append(counter.count(name, WORKLOADS.get(name)))
        print(f"{name}: {len(rows[-1]['launches'])} launches, {time.monotonic() - begin:.0f} s", flush=True)
    options.json.write_text(json.dumps(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
