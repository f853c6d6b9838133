"""Writes what a run leaves: the table, the JSON and the chart."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bars import Verdict
from benchmarks.runner import Row

COLUMNS = (
    f"{'':22}{'median':>10} {'p20':>10} {'p80':>10} {'GB/s':>8} {'copy':>6} {'peak':>10} {'x ours':>9}  check"
)


def seconds_text(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return (
                f"{seconds / scale:.3g} {unit}" if seconds < 1000 * scale else f"{seconds / scale:.0f} {unit}"
            )
    return f"{seconds * 1e9:.0f} ns"


def bytes_text(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:.1f} MiB"


def table_block(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    """One workload: one line per provider, one per bar, and the command that measures it again."""
    lines = [f"{rows[0].workload}   ({rows[0].shape})", COLUMNS]
    ours = next((row.median for row in rows if row.provider == "ours"), None)
    lines += [_provider_line(row, ours) for row in rows]
    lines += [f"  {verdict_text(verdict)}" for verdict in verdicts]
    again = rows[0].command.partition(" --providers")[0]
    return "\n".join([*lines, f"  $ {again}", ""])


def _provider_line(row: Row, ours: float | None) -> str:
    if row.error:
        return f"  {row.provider:20}  FAILED: {row.error}"
    rate = "-" if row.gb_per_s is None or row.copy_share is None else f"{row.gb_per_s:.3g}"
    share = "-" if row.copy_share is None else f"{row.copy_share:.0%}"
    speed_up = f"{row.median / ours:.3g}x" if ours and row.median and row.provider != "ours" else ""
    check = f"DIFFERS FROM THE TWIN: {row.check}" if row.wrong else row.check
    times = " ".join(f"{seconds_text(value):>10}" for value in (row.median, row.p20, row.p80))
    peak = bytes_text(row.peak_bytes)
    return f"  {row.provider:20}{times} {rate:>8} {share:>6} {peak:>10} {speed_up:>9}  {check}"


def verdict_text(verdict: Verdict) -> str:
    if verdict.value is None:
        value = ""
    elif verdict.unit == "%":
        value = f": {verdict.value:.1%}"
    elif verdict.unit == "s":
        value = f": {seconds_text(verdict.value)}"
    else:
        value = f": {verdict.value:.3g}x"
    return f"[{verdict.verdict}] {verdict.bar}{value}"


def write_json(
    path: Path, rows: Sequence[Row], verdicts: Sequence[Verdict], environment: dict[str, Any]
) -> None:
    content = {
        "environment": environment,
        "rows": [row.as_dict() for row in rows],
        "bars": [asdict(verdict) for verdict in verdicts],
    }
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode())


def write_chart(path: Path, rows: Sequence[Row]) -> None:
    """Bars: how many times as fast as each provider our ops are. Lines: the growth families."""
    import io

    from matplotlib.figure import Figure

    timed = [row for row in rows if row.median and not row.wrong]
    families: dict[str, list[Row]] = defaultdict(list)
    for row in timed:
        if row.workload.startswith("growth/"):
            families[row.workload.rpartition("/")[0]].append(row)
    ratios = _speed_ups([row for row in timed if not row.workload.startswith("growth/")])

    if not ratios and not families:
        raise ValueError("nothing was measured with ours and another provider, nor any growth workload")
    heights = [0.14 * sum(len(peers) + 1 for peers in ratios.values()) + 1] if ratios else []
    heights += [3.2] if families else []
    figure = Figure(figsize=(10, sum(heights) + 0.5), layout="constrained")
    panels = list(figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if ratios:
        _draw_speed_ups(panels[0].subplots(), ratios)
    if families:
        axes = panels[-1].subplots(1, len(families), squeeze=False)[0]
        for axis, (family, members) in zip(axes, families.items(), strict=True):
            _draw_growth(axis, family, members)
    environment = timed[0].environment
    figure.suptitle(
        f"{environment['device']}, {environment['threads']} threads, torch {environment['torch']}, "
        f"commit {environment['commit']}" + (" (quick)" if timed[0].quick else ""),
        fontsize=9,
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_whole(path, buffer.getvalue())


def _speed_ups(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """For each workload and provider, the provider's time over ours."""
    ours = {row.workload: row.median for row in rows if row.provider == "ours"}
    ratios: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        own = ours.get(row.workload)
        if row.provider != "ours" and own and row.median:
            ratios[row.workload][row.provider] = row.median / own
    return dict(ratios)


COLORS = {
    "ours": "#1b1b1b",
    "eager": "#4c78a8",
    "compile": "#72b7b2",
    "ours-compile": "#7f7f7f",
    "torchvision": "#e45756",
    "torchvision-compile": "#f2a900",
}


def _draw_speed_ups(axis: Any, ratios: dict[str, dict[str, float]]) -> None:
    position, ticks, seen = 0.0, [], set()
    for workload, peers in ratios.items():
        start = position
        for provider, ratio in peers.items():
            label = None if provider in seen else f"against {provider}"
            seen.add(provider)
            axis.barh(position, ratio, height=0.9, color=COLORS[provider], label=label)
            axis.text(ratio, position, f" {ratio:.3g}x", va="center", fontsize=6)
            position += 1
        ticks.append(((start + position - 1) / 2, workload))
        position += 0.8
    axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks], fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xlabel("times as fast (log scale)")
    axis.margins(x=0.1, y=0.005)
    axis.legend(fontsize=7, loc="lower right")


def _draw_growth(axis: Any, family: str, rows: Sequence[Row]) -> None:
    lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        lines[row.provider].append((float(row.workload.rpartition("/")[2]), (row.median or math.nan) * 1e3))
    for provider, points in lines.items():
        sizes, times = zip(*sorted(points), strict=True)
        axis.plot(sizes, times, marker="o", color=COLORS[provider], label=provider)
        linear = [times[0] * size / sizes[0] for size in sizes]
        axis.plot(
            sizes, linear, linestyle=":", linewidth=1, color=COLORS[provider], label=f"{provider}, if linear"
        )
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(family.removeprefix("growth/"), fontsize=9)
    axis.set_xlabel(family.rpartition("/")[2])
    axis.set_ylabel("median, ms")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


def write_whole(path: Path, content: bytes) -> None:
    """Write through a temporary file beside it, so that a stop in the middle leaves the previous file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's file is its owner's alone
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
