"""The GPUs that are predicted, and what a step costs on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    name: str
    architecture: str
    sms: int
    hertz: float
    copy_bytes_per_second: float  # measured: what a device copy reads and writes
    l2_bytes_per_second: float

    def seconds(self, lanes_per_clock: int, thread_instructions: float) -> float:
        return thread_instructions / (self.sms * lanes_per_clock * self.hertz)


# Both are the same chip: 1.98 GHz is its highest clock. Copies were measured; the L2 cache's bandwidth is assumed.
H200 = Gpu("H200", "90", 132, 1.98e9, 4.3e12, 6.5e12)
H100 = Gpu("H100", "90", 132, 1.98e9, 2.98e12, 6.5e12)
ISSUE_LANES, SPECIAL_LANES = 128, 16  # thread instructions a clock and SM: all, special functions

# What a step of a chain costs, in cycles; none was measured by us. Memory: the order of what Luo et al. publish for the
# H100 ("Benchmarking and Dissecting the Nvidia Hopper GPU Architecture via Microbenchmarking", arXiv 2402.13499). An
# instruction: arithmetic's fixed latency since Volta (Jia et al., arXiv 1804.06826). Warp-wide operations and barriers:
# about as shared memory. Fitted to the H100 run of benchmarks/results: a turn of a spin (an atomic of 64 bits in shared
# memory), and the sectors that an SM gets from the L2 cache in a cycle. How well all of it fits: results/h100.
CYCLES = {
    "instruction": 4.0,
    "l1": 41.0,
    "l2": 263.0,
    "dram": 479.0,
    "shared": 29.0,
    "atomic": 29.0,
    "warp_wide": 25.0,
    "barrier": 30.0,
    "spin": 280.0,
}
SECTORS_PER_CYCLE = 2.0
L2_BYTES = 50 << 20
# The shortest kernels of the H100 run of benchmarks/results take this long.
LAUNCH_US = 1.3

# Registers, warps, blocks and shared memory of an SM.
SM_LIMITS = {
    "80": (65536, 64, 32, 164 << 10),
    "90": (65536, 64, 32, 228 << 10),
    "100": (65536, 64, 32, 228 << 10),
}


def resident_blocks(architecture: str, registers: int, shared: int, threads: int) -> int:
    """Blocks of an SM at a time, as CUDA's occupancy calculator has it."""
    all_registers, max_warps, max_blocks, all_shared = SM_LIMITS[architecture]
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256  # registers are given out 256 at a time, a warp at least
    by_registers = all_registers // per_warp // 4 * 4 // warps  # warps in fours, one for each scheduler
    by_shared = all_shared // (-(-(shared + 1024) // 128) * 128)  # 1 KiB of a block's is the system's
    return min(by_registers, by_shared, max_warps // warps, max_blocks)


def occupancy(architecture: str, registers: int, shared: int, threads: int) -> float:
    """Share of an SM's warps that can be resident."""
    warps = -(-threads // 32)
    return resident_blocks(architecture, registers, shared, threads) * warps / SM_LIMITS[architecture][1]
