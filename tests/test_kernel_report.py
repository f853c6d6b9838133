"""The committed report, and the kernels as they compile now: no spills, wide accesses where arrays are streamed; what
the emulator counts, on kernels of which it can be said beforehand; and the time that the model makes of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import kernels_in_sources

from benchmarks import suites  # noqa: F401  registers the workloads
from benchmarks.kernel_report.__main__ import ARCHITECTURES, RESULTS
from benchmarks.kernel_report.account import Row, account, widths
from benchmarks.kernel_report.calls import WORKLOADS
from benchmarks.kernel_report.compiled import (
    ROOT,
    CompiledKernels,
    Missing,
    find_cuobjdump,
    parse_resources,
    sources,
)
from benchmarks.kernel_report.gpu import H100, LAUNCH_US, Gpu, occupancy
from benchmarks.kernel_report.model import Compiled, call_of, makespan
from benchmarks.kernel_report.page import markdown
from benchmarks.kernel_report.sass import main_loops, main_path, parse_functions
from benchmarks.kernel_report.x86 import basic_blocks
from benchmarks.workload import REGISTRY

COMMITTED = json.loads((RESULTS / "kernel_report.json").read_text())
STREAMS = [Row(**row) for row in COMMITTED["streams"]]
BUILD = ROOT / "build" / f"{sys.implementation.cache_tag}-torch{torch.__version__}"  # setup.py's


def check(rows: list[Row]) -> None:
    for row in rows:
        where = f"{row.kernel}, sm_{row.architecture}"
        assert row.spill_bytes == 0, f"{where} spills"
        if row.stream is not None:
            assert row.loads.get("128", 0) >= row.stream.loads, f"{where} lost its wide loads"
            assert row.stores.get("128", 0) >= row.stream.stores, f"{where} lost its wide stores"
            assert row.instructions_per_element is not None, f"{where} has no path of wide accesses"


@pytest.mark.parametrize("source", sources(), ids=lambda source: source.name)
def test_kernels_as_the_build_compiled_them(source: Path) -> None:
    compiled = CompiledKernels(BUILD / "cuda" / f"{source.name}.o")
    if not compiled.object.exists():
        pytest.skip("the build compiled no CUDA kernels: RETINANET_FAST_CUDA=compile, as CI sets it, does")
    try:
        find_cuobjdump()
    except Missing as missing:
        pytest.skip(str(missing))
    assert compiled.object.stat().st_mtime > source.stat().st_mtime, "changed since; make build"
    rows = account(compiled, ["90"])
    if not rows:
        pytest.skip("the build is not for compute capability 9.0, on which accesses are checked")
    check(rows)


def test_the_committed_report_is_good_and_knows_every_kernel() -> None:
    check(STREAMS)
    assert {one["spill_bytes"] for one in COMMITTED["resources"]} == {0}
    assert {one["name"] for one in COMMITTED["resources"]} == kernels_in_sources(), (
        "write it again: make kernel-report"
    )
    assert markdown(COMMITTED, list(ARCHITECTURES)) == (RESULTS / "kernel_report.md").read_text()


def test_the_committed_calls() -> None:
    calls = {call["workload"]: call for call in COMMITTED["calls"]}
    assert set(calls) == set(WORKLOADS) <= set(REGISTRY)
    for name, call in calls.items():
        assert call["touched"] >= 0.99 * call["must_move"], name
        if name.startswith("retinanet_loss"):  # at every class count, in both layouts
            assert call["narrow"] <= 0.02, f"{name}: elements of the logits go one by one"


def test_focal_kernels_are_memory_bound_on_an_h200() -> None:
    rows = [row for row in STREAMS if "focal" in row.name]
    # An exponential and a reciprocal of each element: the path that was counted jumps over none.
    assert all((row.special_per_element or 0) >= 2 for row in rows)
    with_labels = [row for row in rows if ", true, " not in row.kernel]
    types = {(row.name, found[1]) for row in with_labels if (found := re.search(r"<(\w+)", row.kernel))}
    names = ("focal_kernel", "sigmoid_focal_loss_kernel")
    assert types == {(name, dtype) for name in names for dtype in ("float", "BFloat16")}
    assert {row.kernel: row.binds for row in with_labels} == {row.kernel: "memory" for row in with_labels}


# A kernel with a guard, then a loop: two wide loads and a wide store on its short side, narrow ones on the other.
SASS = """
	code for sm_90
		Function : _Z6kernelPf
        /*0000*/                   S2R R0, SR_TID.X ;            /* 0x0 */
                                                                 /* 0x0 */
        /*0010*/               @P0 EXIT ;                        /* 0x0 */
        /*0020*/                   LDG.E.128 R4, [R2.64] ;       /* 0x0 */
        /*0030*/               @P1 BRA 0x0060 ;                  /* 0x0 */
        /*0040*/                   LDG.E R8, [R2.64+0x10] ;      /* 0x0 */
        /*0050*/                   BRA 0x0080 ;                  /* 0x0 */
        /*0060*/                   LDG.E.128.CONSTANT R8, [R2.64+0x10] ; /* 0x0 */
        /*0070*/                   MUFU.EX2 R9, R8 ;             /* 0x0 */
        /*0080*/                   STG.E.128 [R2.64], R8 ;       /* 0x0 */
        /*0090*/              @!P2 BRA 0x0020 ;                  /* 0x0 */
        /*00a0*/                   EXIT ;                        /* 0x0 */
        /*00b0*/                   BRA 0xb0;                     /* 0x0 */
        /*00c0*/                   NOP;                          /* 0x0 */
"""


def test_disassembly_loop_and_path() -> None:
    instructions = parse_functions(SASS)["90", "_Z6kernelPf"]
    assert len(instructions) == 11
    assert widths(instructions, "LDG") == {"128": 2, "32": 1}
    (loop,) = main_loops(instructions)
    assert [i.address for i in loop] == list(range(0x20, 0xA0, 0x10))
    wide = main_path(loop, loads=2, stores=1)
    assert wide is not None
    assert [i.address for i in wide] == [0x20, 0x30, 0x60, 0x70, 0x80, 0x90]
    narrow = main_path(loop, loads=1, stores=1)
    assert narrow is not None
    assert [i.address for i in narrow] == [0x20, 0x30, 0x40, 0x50, 0x80, 0x90]
    # Without the wide load there, both sides have the same accesses: the one with the work counts.
    equal = parse_functions(SASS.replace("LDG.E.128.CONSTANT", "LDG.E"))["90", "_Z6kernelPf"]
    working = main_path(main_loops(equal)[0], loads=1, stores=1)
    assert working is not None
    assert [i.address for i in working] == [0x20, 0x30, 0x60, 0x70, 0x80, 0x90]
    assert main_path(loop, loads=3, stores=1) is None


def test_ptxas_resources() -> None:
    log = """ptxas info    : Compiling entry function '_Z1k' for 'sm_90'
ptxas info    : Function properties for _Z1k
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 36 registers, used 1 barriers, 1024 bytes smem, 649 bytes cmem[0]
ptxas info    : Compiling entry function '_Z2k2' for 'sm_100'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers"""
    assert parse_resources(log) == {("90", "_Z1k"): (36, 16, 1024), ("100", "_Z2k2"): (8, 0, 0)}


@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "threads", "expected"),
    [
        ("90", 32, 0, 256, 1.0),  # 64 warps of 1,024 registers fill the 65,536
        ("90", 40, 0, 256, 0.75),  # 51 warps of 1,280 registers, in fours and whole blocks of 8: 48
        ("90", 64, 0, 1024, 0.5),  # 32 warps of 2,048 registers: one block
        ("90", 16, 100 << 10, 256, 0.25),  # 2 blocks of 101 KiB in 228 KiB
        ("80", 16, 100 << 10, 256, 0.125),  # 1 in 164 KiB
        ("90", 16, 0, 32, 0.5),  # 32 blocks of one warp
    ],
)
def test_occupancy(architecture: str, registers: int, shared: int, threads: int, expected: float) -> None:
    assert occupancy(architecture, registers, shared, threads) == expected


# ---- what the emulator counts -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The counts of tests/emulator/counts/steps.cu, by kernel. It costs cycles as follows: 1 for a load that the block
    has made before, 100 and 10,000 for one that the launch has and has not, 3 for a shuffle, a million for a spin."""
    folder = tmp_path_factory.mktemp("steps")
    emulator = ROOT / "tests" / "emulator"
    compiler = ["g++", "-std=c++20", "-O1", "-DEMULATOR_COUNTS"]
    compiler += [f"-I{path}" for path in (emulator / "include", emulator, ROOT / "csrc")]
    objects = []
    for source in ("emulator", "counts", "counts_hooks", "counts_json", "counts_memory", "places"):
        objects.append(str(folder / f"{source}.o"))
        subprocess.run([*compiler, "-c", str(emulator / f"{source}.cpp"), "-o", objects[-1]], check=True)
    instrumented = ["-fsanitize=thread", "-fsanitize-coverage=trace-pc", "-x", "c++"]
    kernels = str(folder / "steps.o")
    subprocess.run(
        [*compiler, *instrumented, "-c", str(emulator / "counts" / "steps.cu"), "-o", kernels], check=True
    )
    subprocess.run(["g++", kernels, *objects, "-ldl", "-o", str(folder / "steps")], check=True)
    environment = {"PATH": "/usr/bin:/bin"}
    result = subprocess.run(
        [str(folder / "steps")], capture_output=True, text=True, check=True, env=environment
    )
    return {launch["kernel"]: launch for launch in json.loads(result.stdout)}


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        # 4 blocks of 64 threads, 16 bytes in and out: 2 x 4 KiB; a load, as the stores do not wait.
        ("wide_copy", {"useful_bytes": 8192, "sectors": 256, "narrow_bytes": 0, "cycles": [10_000] * 4}),
        ("narrow_copy", {"useful_bytes": 1024, "sectors": 32, "narrow_bytes": 1024}),
        ("strided_read", {"useful_bytes": 256, "sectors": 64, "unique_sectors": 64}),
        # Two stores of 32 lanes in one bank, 31 passes too many each; two loads, one with as many.
        ("bank", {"shared_accesses": 4, "bank_conflicts": 31 + 31 + 0 + 0, "cycles": [66]}),
        ("queue", {"atomics": 3 * 64, "longest_queue": 3 * 48}),
        ("spin", {"longest_queue": 0, "cycles": [128_000_000 + 8]}),
        ("chase", {"cycles": [10 * 10_000]}),
        ("idle", {"idle_blocks": 7}),
        # Five shuffles; before and after the barrier, two accesses of shared memory.
        ("tree", {"blocks": 1, "threads": 64, "bank_conflicts": 0, "cycles": [5 * 3 + 2 + 2]}),
    ],
)
def test_what_the_emulator_counts(
    steps: dict[str, dict[str, Any]], kernel: str, expected: dict[str, Any]
) -> None:
    found = steps[f"{kernel}_kernel"]
    assert {name: found[name] for name in expected} == expected


def test_the_steps_of_a_chain(steps: dict[str, dict[str, Any]]) -> None:
    tree, chase = steps["tree_kernel"]["chain"], steps["chase_kernel"]["chain"]
    assert (tree["warp_wide"], tree["barriers"], tree["waits_for_others"]) == (5, 1, 4)
    assert (chase["dram"], chase["l2"], chase["l1"], chase["warp_wide"]) == (10, 0, 0, 0)


def test_host_instructions_of_basic_blocks() -> None:
    text = """
0000000000002000 <kernel>:
    2000:\tpush   %rbp
    2001:\tcall   100 <__sanitizer_cov_trace_pc@plt>
    2006:\tlea    0x8(%rbx),%rdi
    200a:\tcall   200 <__tsan_read4@plt>
    200f:\tmov    0x8(%rbx),%eax
    2012:\tadd    %rax,%rbx
    2015:\tidiv   %rcx
    2018:\tje     2030 <kernel+0x30>
    201a:\tcall   100 <__sanitizer_cov_trace_pc@plt>
    201f:\tdivss  %xmm1,%xmm0
    2023:\tmov    %eax,-0x18(%rbp)
    2026:\tcall   300 <_Z15__shfl_xor_syncIfET_jS0_ii@plt>
    202b:\tjmp    2001 <kernel+0x1>
    202d:\tadd    $0x1,%eax
"""
    first, second = basic_blocks(text)
    assert (first.offset, first.divisions64) == (0x2006, 1)
    assert first.instructions == 1 + 2 + 31 + 1  # load, 64 bits, division, branch; the address is the hook's
    assert (second.offset, second.instructions, second.divisions64) == (0x201F, 13 + 1, 0)


# ---- the model ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cycles", "slots", "expected"),
    [
        ([], 4, 0),
        ([3, 1, 2], 4, 3),
        ([1, 1, 1, 1, 10], 2, 12),  # the long one comes last
        ([10, 1, 1, 1, 1], 2, 10),
    ],
)
def test_blocks_one_after_another(cycles: list[float], slots: int, expected: float) -> None:
    assert makespan(cycles, slots) == expected


def counted(**changes: Any) -> dict[str, Any]:
    """One launch of 264 blocks, two on each multiprocessor, on a batch of which a quarter was counted."""
    chain = dict.fromkeys(
        ("l1", "l2", "dram", "shared", "atomic", "warp_wide", "barriers", "waits_for_others"), 0
    )
    launch = {
        "kernel": "some_kernel<float>",
        "blocks": 264,
        "threads": 1024,
        "dynamic_shared": 0,
        "useful_bytes": 3200,
        "sectors": 100,
        "block_sectors": 100,
        "unique_sectors": 100,
        "streamed_bytes": 0,
        "narrow_bytes": 0,
        "shared_accesses": 0,
        "bank_conflicts": 0,
        "atomics": 0,
        "longest_queue": 0,
        "instructions": 1000.0,
        "divisions64": 0.0,
        "idle_blocks": 0,
        "chain_cycles": 264 * 1980.0,
        "issue_cycles": 264 * 1600.0,
        "chain": {"cycles": 1980.0, "instructions": 400.0} | chain,
        "cycles": [1980.0] * 264,
    }
    growth, must_move = changes.pop("growth", 4), changes.pop("must_move", 12_800)
    return {
        "workload": "some/call",
        "growth": growth,
        "must_move": must_move,
        "torchs": {"aten::fill_": 1},
        "launches": [launch | changes],
    }


CODE = {"some_kernel<float>": Compiled(registers=32, shared_bytes=0)}


def predicted(found: dict[str, Any], code: dict[str, Compiled] = CODE, gpu: Gpu = H100) -> Any:
    (part,) = call_of(found, [gpu], code).parts[gpu.name]
    return part


def test_parts_of_a_prediction() -> None:
    part = predicted(counted())
    assert part.launch == LAUNCH_US
    assert part.chain == pytest.approx(4.0)  # 1,056 blocks of a microsecond, 264 at a time
    assert part.memory == pytest.approx(1e6 * 4 * 3200 / H100.l2_bytes_per_second)
    assert part.binds == "chain"
    assert part.time == pytest.approx(LAUNCH_US + 4.0)
    # A call larger than the cache moves at the copy's bandwidth; issue is four instructions a clock and multiprocessor.
    part = predicted(counted(unique_sectors=10**7, block_sectors=10**7, must_move=10**9))
    assert part.memory == pytest.approx(1e6 * 4 * 32e7 / H100.copy_bytes_per_second)
    assert part.binds == "memory"
    part = predicted(counted(instructions=1e7))
    assert part.issue == pytest.approx(1e6 * 4e7 / (132 * 4 * 1.98e9))
    assert part.binds == "issue"


def test_idle_blocks_take_time_too() -> None:
    idle = [-1.0 - 1980.0] * 132 + [1980.0] * 264  # the emulator's way to say so
    part = predicted(counted(cycles=idle, growth=1))
    assert (part.chain, part.idle) == (pytest.approx(2.0), pytest.approx(1.0))


def test_streaming_kernels_take_the_machine_codes_instructions() -> None:
    code = {"some_kernel<float>": Compiled(32, 0, instructions_per_element=16.0, bytes_per_element=8)}
    found = counted(
        useful_bytes=8000, streamed_bytes=8000
    )  # 1,000 elements: 500 instructions of warps, not 1,000
    assert predicted(found, code).issue == pytest.approx(predicted(counted()).issue / 2)
    assert predicted(found, code).chain == pytest.approx(4.0 * (1 - 0.5 * 1600 / 1980))


def test_a_kernel_that_was_not_compiled() -> None:
    with pytest.raises(RuntimeError, match="some_kernel<float> was counted, but not compiled"):
        predicted(counted(), {})
