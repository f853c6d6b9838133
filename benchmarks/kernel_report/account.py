"""Every kernel's resources, accesses and instructions, and for streaming kernels the predicted time on one GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.kernel_report.compiled import CompiledKernels, demangle
from benchmarks.kernel_report.gpu import H200, ISSUE_LANES, SPECIAL_LANES, Gpu, occupancy
from benchmarks.kernel_report.sass import Instruction, main_loops, main_path

# ---- what the disassembly cannot know ---------------------------------------------------------------------------

DEFAULT_THREADS = 256
# A block's, where not the default; tests/test_kernels.py compares.
THREADS: dict[str, int] = {
    "prepare_kernel": 128,
    "best_iou_kernel": 128,
    "match_kernel": 128,
    "resolve_kernel": 1024,
    "scan_kernel": 1024,
    "guess_kernel": 1024,
    "sort_kernel": 1024,
    "sum_kernel": 1024,
    "sum_partials_kernel": 1024,
    "suppress_kernel": 1024,
}


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
    def bytes_per_element(self) -> int:
        """That a streaming kernel reads and writes."""
        stream = self.stream
        return element_bytes(self.kernel) * (stream.loads + stream.stores) if stream else 0

    @property
    def is_shown(self) -> bool:
        """Of the streaming kernels, the usual types and gamma."""
        usual = re.match(r"\w+<(float|BFloat16)\b", self.kernel) and "AnyGamma" not in self.kernel
        return bool(usual) and self.architecture == H200.architecture and self.memory_us is not None

    @property
    def binds(self) -> str:
        times = {"memory": self.memory_us, "issue": self.issue_us, "special functions": self.special_us}
        return max(times, key=lambda limit: times[limit] or 0.0)


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


def account(compiled: CompiledKernels, architectures: Sequence[str]) -> list[Row]:
    """A row for every kernel of one source on each of these architectures that it was compiled for."""
    found = {key: values for key, values in compiled.resources().items() if key[0] in architectures}
    functions: dict[tuple[str, str], list[Instruction]] = {}
    for architecture in {architecture for architecture, _ in found}:
        functions |= compiled.functions(architecture)
    names = demangle(sorted({name for _, name in found}))
    rows = []
    for (architecture, mangled), (registers, spilled, shared) in found.items():
        instructions = functions[architecture, mangled]
        kernel = names[mangled]
        threads = THREADS.get(kernel.split("<")[0], DEFAULT_THREADS)
        row = Row(
            compiled.source,
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


@dataclass(frozen=True)
class Resources:
    """A kernel's over all its types and architectures: the least and the most."""

    source: str
    name: str
    variants: int
    registers: tuple[int, int]
    occupancy: tuple[float, float]
    instructions: tuple[int, int]
    shared_bytes: int
    spill_bytes: int


def resources(rows: Sequence[Row]) -> list[Resources]:
    by_name: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_name.setdefault((row.source, row.name), []).append(row)

    def span(values: list[Any]) -> tuple[Any, Any]:
        return min(values), max(values)

    return [
        Resources(
            source,
            name,
            len({row.kernel for row in found}),
            span([row.registers for row in found]),
            span([row.occupancy for row in found]),
            span([row.instructions for row in found]),
            max(row.shared_bytes for row in found),
            max(row.spill_bytes for row in found),
        )
        for (source, name), found in by_name.items()
    ]
