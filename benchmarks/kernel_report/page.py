"""The account as a page for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.kernel_report.account import H200, ISSUE_LANES, SPECIAL_LANES, Row


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
