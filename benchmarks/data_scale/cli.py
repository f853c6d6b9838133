"""Reads the command line, measures the parts that it asks for, and keeps what was measured after each number."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.cli import BUSY
from benchmarks.data_scale import draft, loader, memory, order, startup
from benchmarks.data_scale.child import ChildError
from benchmarks.data_scale.generate import generated
from benchmarks.data_scale.sizes import SCALES, Scale
from benchmarks.environment import describe
from benchmarks.numbers import Number, Result, missed
from benchmarks.training_step.program import ProgramError
from retinanet_fast.engine.errors import InputError

SMALLER = 8  # the pictures of the memory's data sets: their sides, so that an epoch takes a minute or two


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.data_scale",
        description="Measure start-up, memory, loading and batching on a generated data set of COCO's size.",
        epilog="Takes some ten minutes on two cores, and 4 GB of disk. benchmarks/README.md says what is measured.",
    )
    parse.add_argument("--out", type=Path, metavar="FILE", default=Path("runs/bench/data_scale.json"))
    parse.add_argument("--parts", default=",".join(PARTS), metavar="A,B", help=f"some of {', '.join(PARTS)}")
    parse.add_argument("--scale", choices=sorted(SCALES), default="coco", help="default: %(default)s")
    parse.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        default=Path("runs/data_scale"),
        help="where data sets are generated",
    )
    parse.add_argument(
        "--photographs",
        type=Path,
        metavar="DIR",
        help="a COCO-format data set of real photographs (order, draft)",
    )
    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, with missed bars too; 1 if a measured process failed; 2 for a request that cannot be met."""
    options = parser().parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        print(
            f"data_scale: --parts: expected some of {', '.join(PARTS)}, got {unknown[0]!r}", file=sys.stderr
        )
        return 2
    result = Result(describe(torch.device("cpu")), str(SCALES[options.scale]))
    if (result.environment["load"] or 0.0) > BUSY:
        print(f"this machine is busy (load {result.environment['load']}): the times below mean little")
    try:
        for part in parts:
            start = time.perf_counter()
            for number in PARTS[part](options):
                print(number.line(), flush=True)
                result.numbers.append(number)
                result.write(options.out)
            print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
    except (InputError, OSError) as error:
        print(f"data_scale: {error}", file=sys.stderr)
        return 2
    except (ChildError, ProgramError) as error:
        print(f"data_scale: {error}", file=sys.stderr)
        return 1
    print(f"wrote {options.out}; bars missed: {len(missed(result.numbers))}")
    return 0


def _data(options: argparse.Namespace, name: str, scale: Scale) -> Path:
    return generated(options.data / name, scale).resolve()


def _full(options: argparse.Namespace) -> Path:
    return _data(options, options.scale, SCALES[options.scale])


def _startup(options: argparse.Namespace) -> Iterator[Number]:
    return startup.measure(_full(options))


def _memory(options: argparse.Namespace) -> Iterator[Number]:
    small = [
        _data(options, f"{name}_small", dataclasses.replace(SCALES[name], smaller=SMALLER))
        for name in (options.scale, "tiny")
    ]
    return memory.measure(*small)


def _loader(options: argparse.Namespace) -> Iterator[Number]:
    return loader.measure(_full(options), os.cpu_count() or 1)


def _order(options: argparse.Namespace) -> Iterator[Number]:
    return order.measure(options.photographs)


def _draft(options: argparse.Namespace) -> Iterator[Number]:
    return draft.measure(options.photographs)


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Number]]] = {
    "startup": _startup,
    "memory": _memory,
    "loader": _loader,
    "order": _order,
    "draft": _draft,
}
