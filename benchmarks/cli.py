"""`python -m benchmarks`, which `retinanet-fast bench` calls too."""

from __future__ import annotations

import argparse
import re
import sys
import time
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
    parse.add_argument(
        "--filter",
        metavar="REGEX",
        action="append",
        help="only workloads whose name matches; given again, the first one's workloads come first",
    )
    parse.add_argument("--providers", metavar="A,B", help="a choice of " + ", ".join(PROVIDERS))
    parse.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parse.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: torch's own number)")
    parse.add_argument("--quick", action="store_true", help="small inputs and few repeats; judges no bar")
    parse.add_argument(
        "--budget-per-row", type=float, metavar="SECONDS", help=f"of samples (default {FULL_BUDGET:g})"
    )
    parse.add_argument(
        "--seconds",
        type=float,
        metavar="SECONDS",
        help="begin no workload later than this (default: run all)",
    )
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
    device = choose_device(options.device)
    if options.threads is not None:
        if options.threads < 1:
            raise UsageError(f"--threads: expected at least 1, got {options.threads}")
        torch.set_num_threads(options.threads)
    for option in ("budget_per_row", "seconds"):
        value = getattr(options, option)
        if value is not None and not value > 0:
            raise UsageError(f"--{option.replace('_', '-')}: expected more than 0, got {value:g}")
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
    budget = options.budget_per_row or (QUICK_BUDGET if options.quick else FULL_BUDGET)
    harness = Harness(device, budget)
    runner = Runner(harness, Setting(device, options.quick), environment, providers)
    rows, verdicts = _measure(
        runner,
        workloads,
        lambda rows, verdicts: write_json(options.json, rows, verdicts, environment),
        end=time.monotonic() + options.seconds if options.seconds else None,
    )
    _summarise(rows, verdicts, options.quick)
    _chart(options.chart, rows)
    print(f"wrote {options.json}")
    return int(any(row.wrong for row in rows if row.provider == "ours"))


def choose_device(name: str) -> torch.device:
    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise UsageError("--device cuda: torch finds no GPU here")
    return torch.device("cuda" if name != "cpu" and present else "cpu")


def choose_workloads(device: torch.device, patterns: Sequence[str] | None, *, growth: bool) -> list[Workload]:
    """The workloads of the device that match, pattern by pattern; growth families only if they are asked for."""
    chosen: dict[str, Workload] = {}
    for pattern in patterns or [""]:
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise UsageError(f"--filter: {pattern!r} is not a regular expression: {error}") from error
        found = {
            name: workload
            for name, workload in REGISTRY.items()
            if device.type in workload.devices
            and matches(name)
            and (growth or pattern or not name.startswith("growth/"))
        }
        if not found:
            raise UsageError(
                f"--filter: no workload for {device.type} matches {pattern!r}; --list prints all"
            )
        chosen |= {name: workload for name, workload in found.items() if name not in chosen}
    return list(chosen.values())


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
    runner: Runner,
    workloads: Sequence[Workload],
    keep: Callable[[list[Row], list[Verdict]], None],
    end: float | None = None,
) -> tuple[list[Row], list[Verdict]]:
    """Run, print and keep each workload in turn, so that a stopped run leaves what it measured. A workload's bars are
    judged if ours was measured in full."""
    table: dict[tuple[str, str], Row] = {}
    done: list[str] = []

    def judged(names: Sequence[str]) -> list[Verdict]:
        """The verdicts, made anew after each workload: a bar may compare with one that ran later."""
        bars = [] if runner.setting.quick else BARS[runner.setting.device.type]
        return [judge(bar, table) for name in names for bar in bars if bar.workload == name]

    for number, workload in enumerate(workloads):
        if end is not None and time.monotonic() > end:
            print(f"out of time: left out {', '.join(left.name for left in workloads[number:])}")
            break
        try:
            rows = list(runner.run(workload))
        except Exception as error:  # its inputs or its twin: say so and go on
            print(f"{workload.name}: FAILED: {one_line(error)}\n", flush=True)
            continue
        if not rows:
            continue
        table.update({(row.workload, row.provider): row for row in rows})
        done.append(workload.name)
        print(table_block(rows, judged([workload.name])), flush=True)
        keep(list(table.values()), judged(done))
    keep(list(table.values()), judged(done))
    return list(table.values()), judged(done)


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
