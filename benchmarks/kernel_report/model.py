"""From what kernels do to how long they take: a predicted time of a whole call, with its parts.

A kernel takes a launch, and then the longest of: memory (what it touches, at the copy's bandwidth, or at the L2 cache's
where that holds it), issue (its instructions, on all multiprocessors), and its chain (its blocks one after another,
in order, each on the first multiprocessor with room for it).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.kernel_report.gpu import ISSUE_LANES, L2_BYTES, LAUNCH_US, Gpu, resident_blocks

SECTOR = 32


@dataclass(frozen=True)
class Compiled:
    """What the machine code of a kernel, with its template arguments, says."""

    registers: int
    shared_bytes: int  # static
    # Of a kernel that streams arrays: instructions an element on its main path, and bytes that it moves for one. They
    # are better than what the emulator counts, which are the host's instructions.
    instructions_per_element: float | None = None
    bytes_per_element: int = 0


Code = Mapping[str, Compiled]  # by kernel


@dataclass
class Parts:
    """Microseconds of a kernel's launches in one call."""

    kernel: str
    launches: int = 0
    launch: float = 0.0
    memory: float = 0.0
    issue: float = 0.0
    chain: float = 0.0
    idle: float = 0.0  # of the chain: what blocks that do nothing add

    @property
    def binds(self) -> str:
        return max(("memory", "issue", "chain"), key=lambda part: getattr(self, part))

    @property
    def time(self) -> float:
        return self.launch + max(self.memory, self.issue, self.chain)


@dataclass
class Call:
    """One row: a workload's counts over all launches, at full size, and its time on each GPU."""

    workload: str
    launches: int
    torchs: int  # launches of torch's own
    blocks: int
    idle_blocks: int
    must_move: int
    touched: int  # bytes of 32-byte sectors, each access of a warp by itself
    narrow: float  # share of the streamed bytes
    bank_conflicts: float  # passes an access of shared memory takes beyond one
    atomics: int
    longest_queue: int
    divisions64: float  # by threads
    chain: dict[str, Any] = field(default_factory=dict)  # the longest of any block, and its kernel
    parts: dict[str, list[Parts]] = field(default_factory=dict)  # by GPU

    def as_json(self) -> dict[str, Any]:
        return rounded(asdict(self))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 3 if abs(value) < 1 else 1) if isinstance(value, float) else value


def makespan(cycles: Sequence[float], slots: int) -> float:
    """Until the last block is done, where each in turn takes the first free slot."""
    if len(cycles) <= slots:
        return max(cycles, default=0.0)
    free = [0.0] * slots
    for one in cycles:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def makespan_of_batch(cycles: Sequence[float], growth: int, slots: int, most: int = 200_000) -> float:
    """With the blocks of all images; where these are very many, the rest is in proportion."""
    times = min(growth, max(1, most // max(len(cycles), 1)))
    return makespan(list(cycles) * times, slots) * growth / times


def launch_parts(launch: Mapping[str, Any], growth: int, gpu: Gpu, code: Compiled, cached: bool) -> Parts:
    shared = code.shared_bytes + launch["dynamic_shared"]
    slots = gpu.sms * resident_blocks(gpu.architecture, code.registers, shared, launch["threads"])
    bandwidth = gpu.l2_bytes_per_second if cached else gpu.copy_bytes_per_second
    memory = max(
        SECTOR * launch["unique_sectors"] * growth / bandwidth,
        SECTOR * launch["block_sectors"] * growth / gpu.l2_bytes_per_second,
    )
    fewer = 1.0  # instructions than counted
    if code.instructions_per_element and 2 * launch["streamed_bytes"] > launch["useful_bytes"]:
        elements = launch["streamed_bytes"] / code.bytes_per_element
        fewer = min(1.0, elements * code.instructions_per_element / (32 * launch["instructions"]))
    issue = fewer * 32 * launch["instructions"] * growth / (gpu.sms * ISSUE_LANES * gpu.hertz)
    faster = (
        1 - (1 - fewer) * launch["issue_cycles"] / launch["chain_cycles"] if launch["chain_cycles"] else 1.0
    )

    def chain(blocks: Sequence[float]) -> float:
        return makespan_of_batch(blocks, growth, slots) * faster / gpu.hertz

    seconds = chain([cycles if cycles >= 0 else -1 - cycles for cycles in launch["cycles"]])
    without_idle = chain([cycles for cycles in launch["cycles"] if cycles >= 0])
    return Parts(
        launch["kernel"],
        1,
        LAUNCH_US,
        memory=1e6 * memory,
        issue=1e6 * issue,
        chain=1e6 * seconds,
        idle=1e6 * (seconds - without_idle),
    )


def parts_of(counted: Mapping[str, Any], gpu: Gpu, code: Code) -> list[Parts]:
    """By kernel, the longest first."""
    cached = counted["must_move"] <= L2_BYTES
    found: dict[str, Parts] = {}
    for launch in counted["launches"]:
        compiled = code.get(launch["kernel"])
        if compiled is None:
            raise RuntimeError(f"kernel_report: {launch['kernel']} was counted, but not compiled")
        one = launch_parts(launch, counted["growth"], gpu, compiled, cached)
        total = found.setdefault(one.kernel, Parts(one.kernel))
        for name in ("launches", "launch", "memory", "issue", "chain", "idle"):
            setattr(total, name, getattr(total, name) + getattr(one, name))
    return sorted(found.values(), key=lambda parts: -parts.time)


def call_of(counted: Mapping[str, Any], gpus: Sequence[Gpu], code: Code) -> Call:
    launches, growth = counted["launches"], counted["growth"]

    def total(name: str) -> int:
        return int(sum(launch[name] for launch in launches) * growth)

    slowest = max(launches, key=lambda launch: launch["chain"]["cycles"])
    streamed = sum(launch["streamed_bytes"] for launch in launches)
    narrow = sum(launch["narrow_bytes"] for launch in launches)
    shared = sum(launch["shared_accesses"] for launch in launches)
    return Call(
        workload=counted["workload"],
        launches=len(launches),
        torchs=sum(counted["torchs"].values()),
        blocks=total("blocks"),
        idle_blocks=total("idle_blocks"),
        must_move=counted["must_move"],
        touched=SECTOR * total("sectors"),
        narrow=narrow / streamed if streamed else 0.0,
        bank_conflicts=sum(launch["bank_conflicts"] for launch in launches) / shared if shared else 0.0,
        atomics=total("atomics"),
        longest_queue=max(launch["longest_queue"] for launch in launches),
        divisions64=total("divisions64"),
        chain={"kernel": slowest["kernel"]} | slowest["chain"],
        parts={gpu.name: parts_of(counted, gpu, code) for gpu in gpus},
    )
