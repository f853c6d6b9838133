"""Reads the machine code of the emulated kernels: what each basic block would cost on a GPU, about."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

# Instructions of a GPU for one of the host's, where it is not one: what nvcc 13.0 makes of it for sm_90, on the path
# that is not a call; 64-bit divisions of numbers below 2^32.
WEIGHTS = {
    "divss": 13.0,
    "divsd": 18.0,
    "sqrtss": 13.0,
    "sqrtsd": 22.0,
    "div": 18.0,
    "idiv": 24.0,
    "div64": 31.0,
}
# For float exponentials and logarithms the kernels take CUDA's fast functions, in whose place the emulator calls these.
CALLS = {
    "expf": 5.0,
    "exp2f": 4.0,
    "logf": 4.0,
    "log2f": 3.0,
    "powf": 95.0,
    "exp": 61.0,
    "log": 84.0,
    "pow": 300.0,
}
INSTRUCTION = ("__shfl", "__ballot", "__match_any", "__reduce", "__syncwarp", "__syncthreads", "atomic")

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*([^#<]*)(?:<([^>+]+)[^>]*>)?(?:\s*#.*)?$")
_REGISTER = re.compile(r"^%\w+$")
_STACK = re.compile(r"^-0x[0-9a-f]+\(%rbp\)$|\(%rsp\)$")
# Integers of 64 bits take two instructions.
_TWO_HALVES = ("add", "sub", "and", "or", "xor", "sh", "sa", "cmp", "test", "neg", "not", "cmov", "imul")
_WIDE = re.compile(r"%r(?:[a-d]x|[sd]i|\d+)$")


@dataclass
class BasicBlock:
    offset: int  # of the instruction behind its call of __sanitizer_cov_trace_pc
    instructions: float = 0.0
    divisions64: float = 0.0


def disassemble(library: Path) -> str:
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text", str(library)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def basic_blocks(text: str) -> list[BasicBlock]:
    found: list[BasicBlock] = []
    block: BasicBlock | None = None
    before: float = 0.0
    traced = False
    for line in text.splitlines():
        match = _LINE.match(line)
        if match is None:
            if line.endswith(">:"):
                block = None
            continue
        address, name, operands, symbol = match[1], match[2], match[3].strip(), match[4] or ""
        if traced:
            block = BasicBlock(int(address, 16))
            found.append(block)
            traced = False
        if name == "call" and symbol.startswith("__sanitizer_cov_trace_pc"):
            traced = True
            continue
        if block is None:
            continue
        if name == "call" and symbol.startswith("__tsan_"):
            block.instructions -= before  # the address, computed for this call alone
            before = 0.0
            continue
        if name in ("jmp", "ret", "ud2", "hlt"):
            block = None
            continue
        weight, divisions = cost(name, operands, symbol)
        block.instructions += weight
        block.divisions64 += divisions
        before = weight if operands.endswith(",%rdi") else 0.0
    return found


def cost(name: str, operands: str, symbol: str) -> tuple[float, float]:
    """Instructions of a GPU, and divisions of 64 bits among them."""
    if name == "call":
        function = symbol.removesuffix("@plt")
        if any(part in function for part in INSTRUCTION):
            return 1.0, 0.0
        return CALLS.get(function, 0.0), 0.0
    if name.startswith(("push", "pop", "nop", "leave", "cltq", "cqto", "cltd", "endbr")):
        return 0.0, 0.0
    if name.startswith(("mov", "lea")):
        source, _, to = operands.rpartition(",")
        if name.startswith("lea"):
            return (0.0 if source.endswith(("(%rbp)", "(%rsp)", "(%rip)")) else 1.0), 0.0
        if (_REGISTER.match(source) and _REGISTER.match(to)) or (
            source.startswith("$") and _REGISTER.match(to)
        ):
            return 0.0, 0.0
        if source.endswith("(%rip)") or any(_STACK.search(part) for part in (source, to)):
            return 0.0, 0.0
        return 1.0, 0.0
    if name.startswith(("div", "idiv")) and not name.endswith(("ss", "sd", "ps", "pd")):
        wide = name.endswith("q") or (operands.startswith(("%r",)) and not operands.endswith("d"))
        return (WEIGHTS["div64"], 1.0) if wide else (WEIGHTS["div"], 0.0)
    if name.startswith(_TWO_HALVES) and _WIDE.search(operands):
        return 2.0, 0.0
    return WEIGHTS.get(name, 1.0), 0.0
