"""Reads cuobjdump's disassembly: instructions, loops, and the main path through a loop."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*([^;]*);", flags=re.MULTILINE)


@dataclass(frozen=True)
class Instruction:
    address: int
    predicated: bool
    name: str  # with its modifiers: LDG.E.128
    operands: str

    @property
    def opcode(self) -> str:
        return self.name.split(".")[0]

    @property
    def width(self) -> int:
        """Bits that a memory access moves."""
        for modifier, bits in (("128", 128), ("64", 64), ("U16", 16), ("S16", 16), ("U8", 8), ("S8", 8)):
            if modifier in self.name.split("."):
                return bits
        return 256 if "256" in self.name.split(".") else 32

    @property
    def is_wide_load(self) -> bool:
        return self.opcode == "LDG" and self.width >= 128

    @property
    def is_wide_store(self) -> bool:
        return self.opcode == "STG" and self.width >= 128

    @property
    def is_work(self) -> bool:
        """Whether it is a special function of an element; a plain reciprocal may belong to an index's division."""
        return self.opcode == "MUFU" and self.name != "MUFU.RCP"

    @property
    def target(self) -> int | None:
        """Where a branch goes."""
        if self.opcode != "BRA":
            return None
        found = re.findall(r"0x([0-9a-f]+)", self.operands)
        return int(found[-1], 16) if found else None


def parse_functions(text: str) -> dict[tuple[str, str], list[Instruction]]:
    """(architecture, mangled name) -> instructions, of `cuobjdump -sass`."""
    functions: dict[tuple[str, str], list[Instruction]] = {}
    for part in re.split(r"^\s*code for sm_", text, flags=re.MULTILINE)[1:]:
        architecture = re.match(r"\d+", part)
        assert architecture is not None
        for function in re.split(r"^\s*Function : ", part, flags=re.MULTILINE)[1:]:
            name, _, body = function.partition("\n")
            functions[architecture[0], name.strip()] = parse_body(body)
    return functions


def parse_body(text: str) -> list[Instruction]:
    """The instructions without no-operations and without the endless branch and padding at a kernel's end."""
    found = []
    for address, predicate, name, operands in _LINE.findall(text):
        instruction = Instruction(int(address, 16), bool(predicate), name, operands.strip())
        if instruction.opcode != "NOP" and instruction.target != instruction.address:
            found.append(instruction)
    return found


def main_loops(instructions: Sequence[Instruction]) -> list[list[Instruction]]:
    """The innermost loops with wide loads and stores, or all instructions if no loop has them."""
    loops = []
    for branch in instructions:
        if branch.target is None or branch.target > branch.address:
            continue
        body = [i for i in instructions if branch.target <= i.address <= branch.address]
        if any(i.is_wide_load for i in body) and any(i.is_wide_store for i in body):
            loops.append(body)
    inner = [
        body
        for body in loops
        if not any(set(other) < set(body) for other in loops)  # an address occurs once: sets of instructions
    ]
    return inner or [list(instructions)]


@dataclass(frozen=True)
class _Arrival:
    """The best way to an instruction: more work first, then fewer instructions."""

    work: int
    count: int
    before: tuple[int, tuple[int, int]] | None  # the instruction before, and its state

    def better_than(self, other: _Arrival | None) -> bool:
        return other is None or (-self.work, self.count) < (-other.work, other.count)


_Arrivals = dict[tuple[int, int], _Arrival]  # by state: wide loads and wide stores so far


def main_path(
    region: Sequence[Instruction], loads: int, stores: int, most: int | None = None
) -> list[Instruction] | None:
    """The main path through `region`, forwards; None if no path has wide accesses.

    It has n * `loads` wide loads and n * `stores` wide stores, with the largest n, at most `most`, that any path
    reaches. Among such paths it is the one with the most work, so that it jumps over no element, and among these the
    one with the fewest instructions.
    """
    index = {instruction.address: i for i, instruction in enumerate(region)}
    most_loads = sum(i.is_wide_load for i in region)
    most_stores = sum(i.is_wide_store for i in region)
    n = min(most_loads // max(loads, 1), most_stores // max(stores, 1))
    n = n if most is None else min(n, most)
    arrivals: list[_Arrivals] = [{} for _ in region]
    arrivals[0][0, 0] = _Arrival(0, 0, None)
    ends: _Arrivals = {}
    for i, instruction in enumerate(region):
        followers, leaves = _followers(region, index, i)
        for state, arrival in arrivals[i].items():
            here = _Arrival(arrival.work + instruction.is_work, arrival.count + 1, (i, state))
            # With a guard, it may come by without its access.
            done = {(state[0] + instruction.is_wide_load, state[1] + instruction.is_wide_store)}
            for after in done | ({state} if instruction.predicated else set()):
                if after[0] > n * loads or after[1] > n * stores:
                    continue
                for follower in followers:
                    if here.better_than(arrivals[follower].get(after)):
                        arrivals[follower][after] = here
                if leaves and here.better_than(ends.get(after)):
                    ends[after] = here
    for times in range(n, 0, -1):
        if (times * loads, times * stores) in ends:
            return _trace(region, arrivals, ends[times * loads, times * stores])
    return None


def _followers(region: Sequence[Instruction], index: dict[int, int], i: int) -> tuple[list[int], bool]:
    """The instructions that may follow number i, forwards, and whether the path may end there."""
    instruction = region[i]
    ends = instruction.opcode in ("EXIT", "RET")
    followers = []
    target = instruction.target
    if target is not None and target in index:
        if index[target] > i:
            followers.append(index[target])
        else:
            ends = True  # backwards: once around the loop
    if instruction.opcode not in ("BRA", "EXIT", "RET", "BRX", "JMP") or _is_conditional(instruction):
        if i + 1 < len(region):
            followers.append(i + 1)
        else:
            ends = True
    return followers, ends


def _is_conditional(instruction: Instruction) -> bool:
    """Besides a guard, a branch may name a predicate, or be taken when a warp diverges."""
    return (
        instruction.predicated
        or bool(re.match(r"!?U?P\d", instruction.operands))
        or ".DIV" in instruction.name
    )


def _trace(region: Sequence[Instruction], arrivals: Sequence[_Arrivals], last: _Arrival) -> list[Instruction]:
    path = []
    at = last.before
    while at is not None:
        i, state = at
        path.append(region[i])
        at = arrivals[i][state].before
    return path[::-1]
