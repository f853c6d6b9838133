"""`python -m benchmarks`, which `retinanet-fast bench` calls too."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import suites  # noqa: F401  registers the workloads
from benchmarks.bars import BARS, Verdict, judge
from benchmarks.environment import describe
from benchmarks.harness import Harness
from benchmarks.providers import PROVIDERS, Unavailable, one_line
from benchmarks.report import table_block, verdict_text, write_chart, write_json
from benchmarks.runner import Row, Runner
from benchmarks.workload import REGISTRY, Setting, Workload

FULL_BUDGET, QUICK_BUDGET = 1.0, 0.05  # seconds of samples per row
BUSY = 0.7  # load from which a timing is also that of what else is running
DEFAULT_JSON, DEFAULT_CHART = Path("runs/bench/bench.json"), Path("runs/bench/bench.png")


class UsageError(Exception):
    """The request cannot be met; the message is one line."""


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Time the ops beside their eager twins, torch.compile and torchvision.",
        epilog="How rows are measured and what the columns mean: benchmarks/README.md.",
    )
    parse.add_argument("--filter", metavar="REGEX", help="only workloads whose name matches")
    parse.add_argument("--providers", metavar="A,B", help="a choice of " + ", ".join(PROVIDERS))
    parse.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parse.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's own number)")
    parse.add_argument("--quick", action="store_true", help="small inputs and few repeats; judges no bar")
    parse.add_argument(
        "--growth", action="store_true", help="also the growth workloads (or name them by --filter)"
    )
    parse.add_argument(
        "--json", type=Path, metavar="FILE", default=DEFAULT_JSON, help="every row and verdict (%(default)s)"
    )
    parse.add_argument(
        "--chart", type=Path, metavar="FILE", default=DEFAULT_CHART, help="speed-ups and growth (%(default)s)"
    )
    parse.add_argument("--list", action="store_true", help="print the workloads and providers, and stop")
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 if one of our rows failed or differs from its twin; 2 for a request that cannot be met."""
    options = parser().parse_args(arguments)
    try:
        return _list() if options.list else _run(options)
    except (UsageError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


def _list() -> int:
    for provider in PROVIDERS.values():
        print(f"provider {provider.name:22}{provider.summary}")
    for workload in REGISTRY.values():
        print(f"{workload.name:44}{'/'.join(workload.devices):10} {','.join(workload.providers)}")
    return 0


def _run(options: argparse.Namespace) -> int:
    device = _device(options.device)
    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    for path in (options.json, options.chart):
        if path.is_dir():
            raise UsageError(f"expected a file to write, {path} is a folder")
    workloads = choose_workloads(device, options.filter, growth=options.growth)
    providers = choose_providers(options.providers)

    environment = describe(device)
    print(" | ".join(f"{key} {value}" for key, value in environment.items() if value is not None))
    _warn_of_missing(providers)
    if (environment["load"] or 0.0) > BUSY:
        print(f"this machine is busy (load {environment['load']}): the times below mean little")
    harness = Harness(device, QUICK_BUDGET if options.quick else FULL_BUDGET)
    runner = Runner(harness, Setting(device, options.quick), environment, providers)
    rows, verdicts = _measure(
        runner, workloads, lambda rows, verdicts: write_json(options.json, rows, verdicts, environment)
    )
    _summarise(rows, verdicts, options.quick)
    _chart(options.chart, rows)
    print(f"wrote {options.json}")
    return int(any(row.wrong for row in rows if row.provider == "ours"))


def _device(name: str) -> torch.device:
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise UsageError("--device cuda: torch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and present else "cpu")


def choose_workloads(device: torch.device, pattern: str | None, *, growth: bool) -> list[Workload]:
    """The device's workloads that match; the growth families only if they are asked for."""
    try:
        matches = re.compile(pattern or "").search
    except re.error as error:
        raise UsageError(f"--filter: {pattern!r} is not a regular expression: {error}") from error
    with_growth = growth or pattern is not None
    chosen = [
        workload
        for workload in REGISTRY.values()
        if device.type in workload.devices
        and matches(workload.name)
        and (with_growth or not workload.name.startswith("growth/"))
    ]
    if not chosen:
        raise UsageError(f"--filter: no workload for {device.type} matches {pattern!r}; --list prints all")
    return chosen


def choose_providers(names: str | None) -> list[str]:
    chosen = names.split(",") if names else list(PROVIDERS)
    for name in chosen:
        if name not in PROVIDERS:
            raise UsageError(f"--providers: expected some of {', '.join(PROVIDERS)}, got {name!r}")
    return chosen


def _warn_of_missing(providers: Sequence[str]) -> None:
    for name in providers:
        try:
            PROVIDERS[name].load()
        except Unavailable as missing:
            print(f"left out: {missing}")


def _measure(
    runner: Runner, workloads: Sequence[Workload], keep: Callable[[list[Row], list[Verdict]], None]
) -> tuple[list[Row], list[Verdict]]:
    """Run, print and keep each workload in turn, so that a stopped run leaves what it measured. A workload's bars are
    judged if ours was measured in full."""
    table: dict[tuple[str, str], Row] = {}
    verdicts: list[Verdict] = []
    for workload in workloads:
        try:
            rows = list(runner.run(workload))
        except Exception as error:  # its inputs or its twin: say so and go on
            print(f"{workload.name}: FAILED: {one_line(error)}\n", flush=True)
            continue
        if not rows:
            continue
        table.update({(row.workload, row.provider): row for row in rows})
        bars = [bar for bar in BARS[runner.setting.device.type] if bar.workload == workload.name]
        judged = [] if runner.setting.quick else [judge(bar, table) for bar in bars]
        verdicts += judged
        print(table_block(rows, judged), flush=True)
        keep(list(table.values()), verdicts)
    keep(list(table.values()), verdicts)
    return list(table.values()), verdicts


def _summarise(rows: Sequence[Row], verdicts: Sequence[Verdict], quick: bool) -> None:
    for row in rows:
        if row.wrong:
            print(f"WRONG  {row.workload} {row.provider}: {row.error or row.check}")
    for verdict in verdicts:
        if verdict.verdict == "miss":
            print(f"missed {verdict.workload}: {verdict_text(verdict)}")
    counts = {kind: sum(v.verdict == kind for v in verdicts) for kind in ("pass", "miss", "not measured")}
    bars = (
        "no bar judged (quick)" if quick else ", ".join(f"{kind} {count}" for kind, count in counts.items())
    )
    print(f"{len(rows)} rows; bars: {bars}")


def _chart(path: Path, rows: Sequence[Row]) -> None:
    """Draw the chart. The rows are written by now: a chart that cannot be drawn is a note, not a failure."""
    try:
        write_chart(path, rows)
    except (ImportError, ValueError) as error:
        print(f"no chart: {error}")
    else:
        print(f"wrote {path}")
