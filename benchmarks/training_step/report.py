"""The tables that are printed, and the file that is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.bars import Verdict
from benchmarks.report import bytes_text, seconds_text, verdict_text, write_whole
from benchmarks.training_step.contenders import OURS
from benchmarks.training_step.program import ProgramRun
from benchmarks.training_step.steps import StepRow

COLUMNS = (
    f"{'median':>9} {'p20':>9} {'p80':>9} {'images/s':>9} {'GFLOP/s':>9} {'matmul':>7} {'GB/s':>6} "
    f"{'copy':>5} {'peak':>11} {'x ours':>7}"
)


@dataclass
class Result:
    """All that a run has measured so far."""

    environment: dict[str, Any]
    matmul: dict[str, float] = field(default_factory=dict)
    rows: list[StepRow] = field(default_factory=list)
    runs: list[ProgramRun] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def write(self, path: Path) -> None:
        content = {
            "environment": self.environment,
            "matmul_flops_per_s": self.matmul,
            "rows": [row.as_dict() for row in self.rows],
            "program": [run.as_dict() for run in self.runs],
            "bars": [asdict(verdict) for verdict in self.verdicts],
        }
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def step_block(rows: Sequence[StepRow]) -> str:
    """The rows of one kind of step and precision."""
    ours = next(row.median for row in rows if row.provider == OURS)
    return "\n".join([f"{rows[0].workload:32}{COLUMNS}", *(_line(row, ours) for row in rows)])


def _line(row: StepRow, ours: float) -> str:
    times = " ".join(f"{seconds_text(value):>9}" for value in (row.median, row.p20, row.p80))
    images = "-" if row.images_per_s is None else f"{row.images_per_s:.4g}"
    flops = "-" if row.flops_per_s is None else f"{row.flops_per_s / 1e9:.4g}"
    matmul = "-" if row.matmul_share is None else f"{row.matmul_share:.0%}"
    bandwidth = "-" if row.gb_per_s is None else f"{row.gb_per_s:.3g}"
    copied = "-" if row.copy_share is None else f"{row.copy_share:.0%}"
    ratio = "" if row.provider == OURS else f"{row.median / ours:.3g}x"
    return (
        f"  {row.provider:30}{times} {images:>9} {flops:>9} {matmul:>7} {bandwidth:>6} {copied:>5} "
        f"{bytes_text(row.peak_bytes):>11} {ratio:>7}"
    )


def program_line(run: ProgramRun) -> str:
    beside = f"beside {run.busy} busy" if run.busy else "alone"
    line = f"  {beside:16}{run.images_per_s:.3g} images/s"
    if run.eval_images_per_s is not None:
        line += f", evaluation {run.eval_images_per_s:.3g} images/s ({run.eval_images_per_s / run.images_per_s:.3g}x)"
    shares = ", ".join(f"{phase} {share:.1%}" for phase, share in run.shares.items())
    lines = [line, f"    {shares}" if shares else "", f"    {run.said}" if run.said else ""]
    return "\n".join(filter(None, lines))


def verdict_line(verdict: Verdict) -> str:
    if verdict.unit == "/s" and verdict.value is not None:
        return f"  [{verdict.verdict}] {verdict.bar}: {verdict.value:.4g} images/s"
    return f"  {verdict_text(verdict)}"
