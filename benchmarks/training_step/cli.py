"""Reads the command line, runs the parts that it asks for, and keeps what was measured after each of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import torch

from benchmarks.cli import BUSY, QUICK_BUDGET, UsageError, choose_device
from benchmarks.environment import describe
from benchmarks.harness import Harness
from benchmarks.training_step import report
from benchmarks.training_step.bars import program_verdicts, step_verdicts
from benchmarks.training_step.program import (
    Job,
    ProgramError,
    ProgramRun,
    alone_and_beside,
    render,
    run_program,
)
from benchmarks.training_step.report import Result
from benchmarks.training_step.steps import Measurement, StepRow, matmul_rates, measure
from benchmarks.training_step.works import WORKS, Work

ROUNDS, PROGRAM_ROUNDS = 5, 2
PARTS = ("steps", "program", "neighbours")


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.training_step",
        description="Time a whole training step beside torchvision's, and the program that trains.",
        epilog="benchmarks/README.md has the columns and what is compared.",
    )
    parse.add_argument(
        "--parts",
        default=",".join(PARTS),
        metavar="A,B",
        help="steps: beside torchvision's model; program: where the program's time goes; neighbours: that, and its "
        "rate beside busy processes (default: all)",
    )
    parse.add_argument("--works", metavar="A,B", help=f"of steps: some of {', '.join(WORKS)}")
    parse.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parse.add_argument("--threads", type=int, metavar="N", help="of steps (default: torch's own number)")
    parse.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"default {ROUNDS}, of the program {PROGRAM_ROUNDS}",
    )
    parse.add_argument(
        "--data", type=Path, metavar="DIR", help="what the program trains on (default: rendered)"
    )
    parse.add_argument("--recipe", default="bccd", help="of the program (default: %(default)s)")
    parse.add_argument("--quick", action="store_true", help="tiny sizes: does it run? judges no bar")
    parse.add_argument("--json", type=Path, metavar="FILE", default=Path("runs/bench/training_step.json"))
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 if the models' losses differ or the program failed; 2 for a request that cannot be met."""
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except (UsageError, OSError) as error:
        print(f"training_step: {error}", file=sys.stderr)
        return 2
    except (ProgramError, ValueError) as error:
        print(f"training_step: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    parts = _choice("--parts", options.parts, PARTS)
    device = choose_device(options.device)
    works = _works(options, device)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    result = Result(describe(device))
    print(" | ".join(f"{key} {value}" for key, value in result.environment.items() if value is not None))
    if (result.environment["load"] or 0.0) > BUSY:
        print(f"this machine is busy (load {result.environment['load']}): the times below mean little")
    if "steps" in parts:
        _run_steps(options, device, works, result)
    if "program" in parts or "neighbours" in parts:
        _run_program(options, device, "neighbours" in parts, result)
    print(f"wrote {options.json}")
    return 0


def _run_steps(options: argparse.Namespace, device: torch.device, works: list[Work], result: Result) -> None:
    harness = Harness(device, QUICK_BUDGET if options.quick else 1.0)
    result.matmul = matmul_rates(harness, options.quick)
    _say_rates(result.matmul, device)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    how = Measurement(harness, rounds, options.quick, result.matmul)
    for work in works:
        rows: list[StepRow] = []
        sized = work.small() if options.quick else work
        print(f"{work.name}   ({sized.shape})", flush=True)
        for _, block in groupby(measure(sized, how), key=lambda row: row.workload):
            rows += (new := list(block))
            print(report.step_block(new), flush=True)
            result.rows += new
            result.write(options.json)
        verdicts = [] if options.quick else list(step_verdicts(rows, device.type))
        print(*map(report.verdict_line, verdicts), "", sep="\n", flush=True)
        result.verdicts += verdicts
        result.write(options.json)


def _run_program(options: argparse.Namespace, device: torch.device, neighbours: bool, result: Result) -> None:
    print(f"retinanet-fast train --recipe {options.recipe}; shares are of a step's time", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for run in _program_runs(options, Path(folder), device, neighbours):
            print(report.program_line(run), flush=True)
            result.runs.append(run)
            result.write(options.json)
    verdicts = [] if options.quick else list(program_verdicts(result.runs))
    print(*map(report.verdict_line, verdicts), sep="\n")
    result.verdicts += verdicts
    result.write(options.json)


def _program_runs(
    options: argparse.Namespace, folder: Path, device: torch.device, neighbours: bool
) -> Iterator[ProgramRun]:
    data = options.data or render(folder / "data", options.quick)
    job = Job(data, options.recipe, extra=("--device", device.type))
    job = job.small() if options.quick else job
    if neighbours:
        yield from alone_and_beside(job, folder, options.rounds or (1 if options.quick else PROGRAM_ROUNDS))
    else:
        yield run_program(job, folder / "run")


def _works(options: argparse.Namespace, device: torch.device) -> list[Work]:
    here = [name for name, work in WORKS.items() if device.type in work.devices]
    names = _choice("--works", options.works, tuple(WORKS)) if options.works else here
    for name in names:
        if name not in here:
            raise UsageError(f"--works: expected some of {', '.join(here)} on {device.type}, got {name!r}")
    return [WORKS[name] for name in names]


def _choice(flag: str, text: str, known: tuple[str, ...]) -> list[str]:
    for name in text.split(","):
        if name not in known:
            raise UsageError(f"{flag}: expected some of {', '.join(known)}, got {name!r}")
    return text.split(",")


def _say_rates(matmul: dict[str, float], device: torch.device) -> None:
    rates = ", ".join(f"{name} {rate / 1e9:.4g} GFLOP/s" for name, rate in matmul.items())
    print(f"matrix product: {rates}", end="")
    if device.type == "cuda":
        allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        print(f"; TF32 of float32 convolutions {allowed[0]}, of matrix products {allowed[1]}", end="")
    print(flush=True)
