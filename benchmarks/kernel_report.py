"""`python -m benchmarks.kernel_report`: what the compiler made of each CUDA kernel, and what that allows.

Compiles every kernel for sm_80, sm_90 and sm_100 with nvcc, no GPU needed, and writes for each kernel and type:
registers, spills, shared memory and theoretical occupancy (ptxas); widths of global loads and stores, special-function
and total instructions (disassembly); and for streaming kernels a predicted time on one GPU beside its memory floor.
benchmarks/results/kernel_report.md says how the numbers come about.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .sass import Instruction, main_loops, main_path, parse_functions

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "csrc" / "kernels" / "cuda"
RESULTS = Path(__file__).resolve().parent / "results"
ARCHITECTURES = ("80", "90", "100")

# ---- what the disassembly cannot know ---------------------------------------------------------------------------

DEFAULT_THREADS = 256
# A block's, where not the default; tests/test_kernels.py compares.
THREADS: dict[str, int] = {"resolve_kernel": 1024, "scan_kernel": 1024, "store_sizes_kernel": 128}


@dataclass(frozen=True)
class Stream:
    """A kernel that streams arrays: on its main path it reads and writes so many of them, of one length."""

    loads: int
    stores: int
    elements: int  # of the example that is predicted
    example: str
    # Vectors of each array that its main path takes at once, where the kernel could read or write further arrays too,
    # which are then not in the example; else as many as it has accesses for.
    vectors: int | None = None


LOGITS = 16 * 120_087 * 80
BOXES = 4 * 16 * 120_087
STREAMING = {
    "sigmoid_focal_loss_kernel": Stream(1, 1, LOGITS, "16 x 120,087 x 80 logits, sum and gradient", 2),
    "sigmoid_focal_loss_kernel each": Stream(
        1, 2, LOGITS, "16 x 120,087 x 80 logits, losses and gradient", 2
    ),
    "sigmoid_focal_loss_kernel soft": Stream(
        2, 1, LOGITS, "16 x 120,087 x 80 logits, soft targets, sum and gradient", 2
    ),
    "sigmoid_focal_loss_kernel soft each": Stream(
        3, 2, LOGITS, "16 x 120,087 x 80 logits, soft targets, factors, two gradients", 2
    ),
    "focal_kernel": Stream(1, 1, LOGITS, "16 x 120,087 x 80 logits, sum and gradient"),
    "scale_gradient_kernel": Stream(1, 1, LOGITS, "16 x 120,087 x 80 gradients"),
    "decode_boxes_kernel": Stream(2, 1, BOXES, "16 x 120,087 boxes"),
    "decode_boxes_backward_kernel": Stream(3, 2, BOXES, "16 x 120,087 boxes"),
    "encode_boxes_kernel": Stream(2, 1, BOXES, "16 x 120,087 boxes"),
    "encode_boxes_backward_kernel": Stream(3, 2, BOXES, "16 x 120,087 boxes"),
}
BYTES = {"double": 8, "float": 4, "Half": 2, "BFloat16": 2}


@dataclass(frozen=True)
class Gpu:
    name: str
    architecture: str
    sms: int
    hertz: float
    copy_bytes_per_second: float

    def seconds(self, lanes_per_clock: int, thread_instructions: float) -> float:
        return thread_instructions / (self.sms * lanes_per_clock * self.hertz)


# 1.98 GHz is its highest clock; 4.3 TB/s what a device copy was measured to move, reads and writes together.
H200 = Gpu("H200", "90", sms=132, hertz=1.98e9, copy_bytes_per_second=4.3e12)
ISSUE_LANES, SPECIAL_LANES = 128, 16  # thread instructions a clock and SM: all, special functions

# Registers, warps, blocks and shared memory of an SM.
SM_LIMITS = {
    "80": (65536, 64, 32, 164 << 10),
    "90": (65536, 64, 32, 228 << 10),
    "100": (65536, 64, 32, 228 << 10),
}


def occupancy(architecture: str, registers: int, shared: int, threads: int) -> float:
    """Share of an SM's warps that can be resident, as CUDA's occupancy calculator has it."""
    all_registers, max_warps, max_blocks, all_shared = SM_LIMITS[architecture]
    warps = -(-threads // 32)
    per_warp = -(-registers * 32 // 256) * 256  # registers are given out 256 at a time, a warp at least
    by_registers = all_registers // per_warp // 4 * 4 // warps  # warps in fours, one for each scheduler
    by_shared = all_shared // (-(-(shared + 1024) // 128) * 128)  # 1 KiB of a block's is the system's
    return min(by_registers, by_shared, max_warps // warps, max_blocks) * warps / max_warps


# ---- tools ------------------------------------------------------------------------------------------------------


class Missing(Exception):
    """A tool is not there; the message is one line."""


def find_nvcc() -> str:
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        raise Missing("kernel_report: no nvcc on PATH or in /usr/local/cuda/bin; install the CUDA toolkit")
    return nvcc


def find_cuobjdump() -> str:
    """On PATH, in the CUDA toolkit, or in the wheel of Triton, which CUDA builds of torch bring along."""
    tool = shutil.which("cuobjdump") or shutil.which("/usr/local/cuda/bin/cuobjdump")
    if tool is not None:
        return tool
    triton = find_spec("triton")
    if triton is not None and triton.origin is not None:
        tool = shutil.which(Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
        if tool is not None:
            return tool
    raise Missing(
        f"kernel_report: no cuobjdump on PATH, in /usr/local/cuda/bin or in the Triton of {sys.executable}; "
        "pip install triton, or run with a Python that has a CUDA build of torch"
    )


def run(*command: str) -> str:
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}")
    return result.stdout


def demangle(names: Iterable[str]) -> dict[str, str]:
    """'_ZN14retinanet_fast...' -> 'decode_boxes_kernel<float>'."""
    names = list(names)
    texts = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    short = {}
    for name, text in zip(names, texts.stdout.splitlines(), strict=True):
        for noise in ("void ", "retinanet_fast::", "(anonymous namespace)::", "math::"):
            text = text.replace(noise, "")
        short[name] = re.sub(r"\((bool|int|long)\)", "", text).split("(")[0]
    return short


# ---- one kernel on one architecture -----------------------------------------------------------------------------


@dataclass
class Row:
    source: str
    kernel: str  # with its template arguments
    architecture: str
    registers: int
    spill_bytes: int
    shared_bytes: int
    occupancy: float
    instructions: int  # of the whole kernel
    loads: dict[str, int] = field(default_factory=dict)  # bits -> global load instructions
    stores: dict[str, int] = field(default_factory=dict)
    elements_per_path: int | None = None  # streaming kernels: elements that a thread handles on the main path
    instructions_per_element: float | None = None
    special_per_element: float | None = None
    memory_us: float | None = None  # on the H200
    issue_us: float | None = None
    special_us: float | None = None

    @property
    def name(self) -> str:
        return self.kernel.split("<")[0]

    @property
    def stream(self) -> Stream | None:
        kind = self.name
        found = re.search(r"^sigmoid_focal_loss_kernel<.*, (\w+), (\w+)>", self.kernel)
        if found:
            kind += " soft" * (found[1] == "true") + " each" * (found[2] == "true")
        return STREAMING.get(kind)

    @property
    def binds(self) -> str:
        times = {"memory": self.memory_us, "issue": self.issue_us, "special functions": self.special_us}
        return max(times, key=lambda limit: times[limit] or 0.0)


def resources(log: str) -> dict[tuple[str, str], tuple[int, int, int]]:
    """ptxas -v's (architecture, mangled name) -> registers, bytes spilled, bytes of static shared memory."""
    found = {}
    pattern = (
        r"entry function '(\w+)' for 'sm_(\d+)a?'.*?(\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers([^\n]*)"
    )
    for name, architecture, stored, loaded, registers, rest in re.findall(pattern, log, flags=re.DOTALL):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[architecture, name] = (
            int(registers),
            int(stored) + int(loaded),
            int(shared[1]) if shared else 0,
        )
    return found


def widths(instructions: Sequence[Instruction], opcode: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for instruction in instructions:
        if instruction.opcode == opcode:
            counts[str(instruction.width)] = counts.get(str(instruction.width), 0) + 1
    return dict(sorted(counts.items(), key=lambda item: -int(item[0])))


def element_bytes(kernel: str) -> int:
    """Of the kernel's first template argument."""
    found = re.search(r"<(double|float|Half|BFloat16)\b", kernel)
    return BYTES[found[1]] if found else 4


def add_stream(row: Row, instructions: Sequence[Instruction], stream: Stream, gpu: Gpu) -> None:
    """Counts the main path: the one on which the stream's arrays are all accessed 16 bytes at a time. Where several
    loops do that, for arrays that lie differently, the one of most instructions."""
    size = element_bytes(row.kernel)
    worst: list[Instruction] = []
    for loop in main_loops(instructions):
        path = main_path(loop, stream.loads, stream.stores, stream.vectors)
        if path is None:
            continue
        wide = [i for i in path if i.is_wide_load or i.is_wide_store]
        # A guarded access may be of another array, then not done on this path.
        accesses = min(len(wide), (stream.loads + stream.stores) * (stream.vectors or len(wide)))
        elements = accesses * 16 // ((stream.loads + stream.stores) * size)
        if not worst or len(path) / elements > len(worst) / (row.elements_per_path or 1):
            worst, row.elements_per_path = path, elements
    if row.elements_per_path is None:
        return
    row.instructions_per_element = round(len(worst) / row.elements_per_path, 2)
    row.special_per_element = round(sum(i.opcode == "MUFU" for i in worst) / row.elements_per_path, 2)
    if row.architecture != gpu.architecture:
        return
    bytes_moved = stream.elements * size * (stream.loads + stream.stores)
    row.memory_us = round(1e6 * bytes_moved / gpu.copy_bytes_per_second, 1)
    row.issue_us = round(1e6 * gpu.seconds(ISSUE_LANES, stream.elements * row.instructions_per_element), 1)
    row.special_us = round(1e6 * gpu.seconds(SPECIAL_LANES, stream.elements * row.special_per_element), 1)


def compile_source(source: Path, architectures: Sequence[str], fatbin: Path) -> str:
    """With the flags of cmake/cuda.cmake; returns what ptxas says."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "--expt-extended-lambda", "-Xptxas", "-v"]
    return run(find_nvcc(), "-fatbin", str(source), "-o", str(fatbin), f"-I{ROOT / 'csrc'}", *flags, *codes)


def report_source(source: Path, architectures: Sequence[str]) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        fatbin = Path(folder) / "kernels.fatbin"
        found = resources(compile_source(source, architectures, fatbin))
        functions = parse_functions(run(find_cuobjdump(), "-sass", str(fatbin)))
    names = demangle(sorted({name for _, name in found}))
    rows = []
    for (architecture, mangled), (registers, spilled, shared) in found.items():
        instructions = functions[architecture, mangled]
        kernel = names[mangled]
        threads = THREADS.get(kernel.split("<")[0], DEFAULT_THREADS)
        row = Row(
            source.name,
            kernel,
            architecture,
            registers,
            spilled,
            shared,
            occupancy(architecture, registers, shared, threads),
            len(instructions),
            widths(instructions, "LDG"),
            widths(instructions, "STG"),
        )
        if row.stream is not None:
            add_stream(row, instructions, row.stream, H200)
        rows.append(row)
    return sorted(rows, key=lambda row: (row.kernel, int(row.architecture)))


def sources() -> list[Path]:
    return sorted(SOURCES.glob("*.cu"))


# ---- the table --------------------------------------------------------------------------------------------------


def text_of(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} x {bits}" for bits, count in counts.items()) or "-"


def resource_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| kernel | sm | registers | spilled bytes | shared bytes | occupancy | instructions | loads, bits | stores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| `{row.kernel}` | {row.architecture} | {row.registers} | {row.spill_bytes} | {row.shared_bytes} | "
            f"{row.occupancy:.0%} | {row.instructions} | {text_of(row.loads)} | {text_of(row.stores)} |"
        )
    return lines


def prediction_table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| kernel | example | instructions an element | special functions an element | memory floor, us | issue, us | "
        "special functions, us | predicted, us | binds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.stream is None or row.memory_us is None or row.issue_us is None or row.special_us is None:
            continue
        predicted = max(row.memory_us, row.issue_us, row.special_us)
        lines.append(
            f"| `{row.kernel}` | {row.stream.example} | {row.instructions_per_element} | "
            f"{row.special_per_element} | {row.memory_us} | {row.issue_us} | {row.special_us} | "
            f"{predicted} | {row.binds} |"
        )
    return lines


METHOD = """\
Written by `make kernel-report`; no GPU took part, and no time here was measured.

- Registers, spills and static shared memory: `ptxas -v`. Occupancy: the share of an SM's 64 warps that these and the
  block size allow.
- Global loads and stores: the `LDG` and `STG` instructions of the whole kernel by width; narrow ones beside wide ones
  are the path for tails and unaligned arrays.
- Instructions an element: those on the main path, divided by the elements that a thread handles on it. The main path
  of a streaming kernel goes through an innermost loop with wide loads and stores (through the whole kernel, where there
  is no such loop; through the loop of most instructions an element, where there are several), and every array of the
  example is accessed 16 bytes at a time on it. Of such paths it is the one with the most special functions, plain
  reciprocals aside, so that no element's work is jumped over, and then the fewest instructions. Code outside that loop
  and slow paths beside it (unaligned arrays, tails, rows with a label) are not in it.
- `sigmoid_focal_loss_kernel<type, exponent, soft, each>`: with soft targets or labels; with or without losses, factors
  and gradients of targets for each element.
- Predicted time: the largest of the memory floor (bytes moved at {bandwidth:.1f} TB/s, what a copy was measured to
  move), instructions issued at {issue} a clock and SM, and special functions (`MUFU`) at {special} a clock and SM, on
  an {name} ({sms} SMs, {ghz:.2f} GHz). It leaves out latency and the cost of a launch, so it is a floor as well.
"""


def markdown(rows: Sequence[Row], compiler: str) -> str:
    method = METHOD.format(
        bandwidth=H200.copy_bytes_per_second / 1e12,
        issue=ISSUE_LANES,
        special=SPECIAL_LANES,
        name=H200.name,
        sms=H200.sms,
        ghz=H200.hertz / 1e9,
    )
    parts = [f"# CUDA kernels as compiled by {compiler}", "", method]
    parts += [f"## Predicted on an {H200.name}", "", *prediction_table(rows), "", "## Resources", ""]
    return "\n".join([*parts, *resource_table(rows)]) + "\n"


def compiler_version() -> str:
    return "nvcc " + re.search(r"release ([\d.]+)", run(find_nvcc(), "--version"))[1]  # type: ignore[index]


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_report", description=(__doc__ or "").split("\n")[0]
    )
    parse.add_argument("--architectures", default=",".join(ARCHITECTURES), help="such as 80,90 (%(default)s)")
    parse.add_argument("--filter", default="", help="only sources whose name contains this; writes nothing")
    parse.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of kernel_report.md and .json (%(default)s)"
    )
    options = parse.parse_args(arguments)
    rows: list[Row] = []
    try:
        for source in sources():
            if options.filter in source.name:
                rows += report_source(source, options.architectures.split(","))
        compiler = compiler_version()
    except Missing as error:
        print(error, file=sys.stderr)
        return 2
    text = markdown(rows, compiler)
    print(text)
    if not options.filter:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernel_report.md").write_text(text)
        document = {"compiler": compiler, "gpu": asdict(H200), "rows": [asdict(row) for row in rows]}
        (options.out / "kernel_report.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
