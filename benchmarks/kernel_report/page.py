"""The account as one page for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.kernel_report.account import Row
from benchmarks.kernel_report.gpu import CYCLES, ISSUE_LANES, LAUNCH_US, SPECIAL_LANES
from benchmarks.kernel_report.model import Parts

Table = list[str]


def table(*columns: str) -> Table:
    return [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]


def row(*cells: Any) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def short(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if number >= size:
            return f"{number / (1e3 if unit == 'k' else size):.3g}{unit}"
    return f"{number:.0f}"


def megabytes(number: float) -> str:
    return f"{number / 1e6:,.0f}" if number >= 1e8 else f"{number / 1e6:.3g}"


# ---- whole calls ------------------------------------------------------------------------------------------------


def parts_on(call: Mapping[str, Any], gpu: str) -> list[Parts]:
    return [Parts(**part) for part in call["parts"][gpu]]


def split(parts: list[Parts]) -> dict[str, float]:
    """A call's time by what binds each of its kernels."""
    times = {"launch": sum(part.launch for part in parts), "memory": 0.0, "issue": 0.0, "chain": 0.0}
    for part in parts:
        times[part.binds] += getattr(part, part.binds)
    return times


def chain_text(chain: Mapping[str, Any]) -> str:
    loads = chain["l1"] + chain["l2"] + chain["dram"]
    steps = {
        "instructions": chain["instructions"],
        "loads": loads,
        "shared": chain["shared"] + chain["atomic"],
    }
    steps |= {"warp-wide": chain["warp_wide"], "barriers": chain["barriers"]}
    said = ", ".join(f"{short(count)} {name}" for name, count in steps.items() if count >= 1)
    return f"`{chain['kernel'].split('<')[0]}` {short(chain['cycles'])}: {said}"


def call_table(calls: list[Mapping[str, Any]], gpus: list[str]) -> Table:
    first, *others = gpus
    lines = table(
        "call",
        "launches",
        "blocks, idle",
        "must move, MB",
        "touched",
        "narrow",
        "bank conflicts",
        "atomics, queue",
        "64-bit divisions",
        f"{first}, us",
        "launch",
        "memory",
        "issue",
        "chain",
        "of it idle blocks",
        *(f"{gpu}, us" for gpu in others),
    )
    for call in calls:
        parts = parts_on(call, first)
        times = split(parts)
        idle = sum(part.idle for part in parts if part.binds == "chain")
        lines.append(
            row(
                call["workload"].replace("/channels_last", "/cl"),
                f"{call['launches']} + {call['torchs']}",
                f"{short(call['blocks'])}, {short(call['idle_blocks'])}",
                megabytes(call["must_move"]),
                megabytes(call["touched"]),
                f"{call['narrow']:.1%}",
                f"{call['bank_conflicts']:.2f}",
                f"{short(call['atomics'])}, {short(call['longest_queue'])}",
                short(call["divisions64"]),
                f"**{sum(times.values()):.0f}**",
                *(f"{value:.0f}" for value in (*times.values(), idle)),
                *(f"{sum(part.time for part in parts_on(call, gpu)):.0f}" for gpu in others),
            )
        )
    return lines


def chain_list(calls: list[Mapping[str, Any]]) -> Table:
    """One line for each kernel that is some call's longest chain, at its longest."""
    longest: dict[str, Mapping[str, Any]] = {}
    for call in calls:
        name = call["chain"]["kernel"].split("<")[0]
        if name not in longest or call["chain"]["cycles"] > longest[name]["chain"]["cycles"]:
            longest[name] = call
    return [f"- {call['workload']}: {chain_text(call['chain'])}" for call in longest.values()]


# ---- compiled kernels ---------------------------------------------------------------------------------------------


def stream_table(rows: list[Mapping[str, Any]]) -> Table:
    lines = table(
        "kernel",
        "instructions an element",
        "special functions",
        "memory floor, us",
        "issue, us",
        "special functions, us",
        "binds",
    )
    for one in (Row(**fields) for fields in rows):
        counts = (one.instructions_per_element, one.special_per_element)
        times = (one.memory_us, one.issue_us, one.special_us)
        lines.append(row(f"`{one.kernel}`", *counts, *times, one.binds))
    return lines


def span(values: list[Any], form: str = "{}") -> str:
    low, high = (form.format(value) for value in values)
    return low if low == high else f"{low} - {high}"


def resource_table(rows: list[Mapping[str, Any]]) -> Table:
    lines = table(
        "kernel", "variants", "registers", "occupancy", "instructions", "shared bytes", "spilled bytes"
    )
    for one in rows:
        lines.append(
            row(
                f"`{one['name']}`",
                one["variants"],
                span(one["registers"]),
                span(one["occupancy"], "{:.0%}"),
                span(one["instructions"]),
                one["shared_bytes"],
                one["spill_bytes"],
            )
        )
    return lines


# ---- the page -----------------------------------------------------------------------------------------------------

CALLS = """\
Each call is run by the emulator (tests/emulator), which sees every access, warp-wide operation, barrier and basic block
of every thread. Sizes are those of the benchmarks; of a batch of 16 images, one is counted (four of the loss, whose
matching takes four images a block), and blocks, bytes, instructions and atomics grow with the images, chains do not.

- Launches: ours + torch's own (fills, copies, sorts, whose time is not in the prediction). Idle blocks write nothing
  and load once at most.
- Must move: what any implementation reads and writes. Touched: 32-byte sectors of each access of a warp, so more than
  that where lanes do not lie side by side or data is read again. Narrow: of the bytes of arrays of two megabytes or
  more, those that go less than 16 at a time. Bank conflicts: passes beyond one, for an access of shared memory.
- The longest queue: atomics on one address in one launch. 64-bit divisions: by threads.
- Predicted: every launch takes {launch} us, and then the longest of three, added up here by what binds each kernel.
  Memory: sectors touched for the first time, at the copy's {bandwidth}, or at the L2 cache's
  {l2:.1f} TB/s where the call fits into it. Issue: instructions, four a clock and SM. Chain: blocks one after another,
  in order, each on the first SM with room; in a block, between two barriers, the slowest warp. Idle blocks: how
  much shorter the chain would be without them.
- A step of a chain, in cycles: {cycles}.
- Constants: benchmarks/kernel_report/gpu.py, with their sources. Instructions are the host's, weighted by what nvcc
  makes of each; those of streaming kernels are scaled to the machine code's main path.
- It leaves out: instruction caches, and what the compiler overlaps or unrolls. results/h100/prediction.md has
  predictions beside what was measured, and what explains the differences.
"""

STREAMS = """\
By the machine code of the main path alone: through an innermost loop with 16-byte loads and stores (of several, the one
of most instructions), the path with the most special functions. Memory: bytes moved at {bandwidth:.1f} TB/s; issue:
{issue} a clock and SM; special functions (`MUFU`): {special}. 16 x 120,087 x 80 logits, 16 x 120,087 boxes; gamma is 2.
`sigmoid_focal_loss_kernel<type, exponent, soft, each>`: soft targets or labels; with or without each element's loss.
"""

RESOURCES = """\
`ptxas -v` and the machine code, over all types and architectures ({architectures}). Occupancy: the share of an SM's 64
warps that registers, shared memory and block size allow.
"""


def markdown(document: Mapping[str, Any], architectures: list[str]) -> str:
    gpus = document["gpus"]
    calls = CALLS.format(
        launch=LAUNCH_US,
        bandwidth=" and ".join(
            f"{gpu['copy_bytes_per_second'] / 1e12:.2f} TB/s ({gpu['name']})" for gpu in gpus
        ),
        l2=gpus[0]["l2_bytes_per_second"] / 1e12,
        cycles=", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in CYCLES.items()),
    )
    streams = STREAMS.format(
        bandwidth=gpus[0]["copy_bytes_per_second"] / 1e12, issue=ISSUE_LANES, special=SPECIAL_LANES
    )
    parts = [f"# The CUDA kernels, as compiled by {document['compiler']}", ""]
    parts += ["Written by `make kernel-report`; no GPU took part, and no time here was measured.", ""]
    if document["calls"]:
        parts += [
            "## Whole calls",
            "",
            calls,
            *call_table(document["calls"], [gpu["name"] for gpu in gpus]),
            "",
        ]
        parts += ["The longest chains:", "", *chain_list(document["calls"]), ""]
    parts += [
        f"## Streaming kernels, on an {gpus[0]['name']}",
        "",
        streams,
        *stream_table(document["streams"]),
        "",
    ]
    resources = RESOURCES.format(architectures=", ".join(f"sm_{name}" for name in architectures))
    parts += ["## Resources", "", resources, *resource_table(document["resources"])]
    return "\n".join(parts) + "\n"
