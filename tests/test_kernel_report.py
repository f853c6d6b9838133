"""The committed table of compiled kernels, and the kernels as they compile now: no spills, and wide accesses where
arrays are streamed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import kernels_in_sources

from benchmarks.kernel_report.__main__ import ARCHITECTURES, RESULTS
from benchmarks.kernel_report.account import Row, account, occupancy, widths
from benchmarks.kernel_report.compiled import (
    ROOT,
    CompiledKernels,
    Missing,
    find_cuobjdump,
    parse_resources,
    sources,
)
from benchmarks.kernel_report.sass import main_loops, main_path, parse_functions

COMMITTED = [Row(**row) for row in json.loads((RESULTS / "kernel_report.json").read_text())["rows"]]
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


def test_the_committed_table_is_good_and_knows_every_kernel() -> None:
    check(COMMITTED)
    assert {row.architecture for row in COMMITTED} == set(ARCHITECTURES)
    assert {row.name for row in COMMITTED} == kernels_in_sources(), "write it again: make kernel-report"


def test_focal_kernels_are_memory_bound_on_an_h200() -> None:
    rows = [row for row in COMMITTED if "focal" in row.name and row.memory_us is not None]
    assert {"float", "BFloat16"} <= {found[1] for row in rows if (found := re.search(r"<(\w+)", row.kernel))}
    # An exponential and a reciprocal of each element: the path that was counted jumps over none.
    assert all((row.special_per_element or 0) >= 2 for row in rows)
    # gamma 2, the published one, has code of its own; any other gamma needs a power.
    fixed = [row for row in rows if re.search(r"<(float|BFloat16),", row.kernel) and "GammaTwo" in row.kernel]
    assert {row.name for row in fixed} == {"focal_kernel", "sigmoid_focal_loss_kernel"}
    assert {row.kernel: row.binds for row in fixed} == {row.kernel: "memory" for row in fixed}


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
