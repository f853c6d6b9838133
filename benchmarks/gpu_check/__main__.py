"""What runs when: the parts in order of worth, each with what is left of the time but what later ones need."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu_check import __doc__ as description
from benchmarks.gpu_check import machine, parts
from benchmarks.gpu_check.page import state, summary
from benchmarks.gpu_check.parts import Result, Setting
from benchmarks.gpu_check.process import kill_all
from benchmarks.report import write_whole

BUDGET = 540.0
FILES = (
    "summary.md",
    "gpu_check.json",
    "log.txt",
    "tests.xml",
    "bench.json",
    "compiled.json",
    "kernels.json",
    "training.json",
)
LEAST = 4.0  # seconds; with less a part is left out


@dataclass(frozen=True)
class Part:
    run: Callable[[Setting, float], Result]
    most: float  # seconds that it may take
    least: float  # seconds that the parts before it leave to it

    @property
    def name(self) -> str:
        return self.run.__name__


# As measured on an H100 with 16 cores: 51 s of build, 6 of smoke, 70 of tests with memcheck and racecheck beside,
# 80 of timings at 0.1 s a row, 25 of kernel times.
ORDER = [
    Part(parts.build, most=200, least=150),
    Part(parts.smoke, most=40, least=12),
    Part(parts.tests, most=120, least=75),
    Part(parts.sanitizers, most=60, least=10),
    Part(parts.timings, most=140, least=30),
    Part(parts.kernel_times, most=50, least=15),
    Part(parts.never_tried, most=80, least=20),
    Part(parts.training_steps, most=90, least=18),
    Part(parts.last_sanitizers, most=90, least=0),
    Part(parts.compiled, most=180, least=0),
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 where a part failed; 2 where nothing could be run."""
    names = [part.name for part in ORDER]
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--out", type=Path, default=machine.ROOT / "runs" / "gpu-check", help="(%(default)s)")
    parse.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="(%(default)g)")
    parse.add_argument("--only", action="append", choices=names, help="one part; may be given again")
    parse.add_argument("--dry-run", action="store_true", help="say what would run; needs no GPU")
    options = parse.parse_args(arguments)
    chosen = [part for part in ORDER if options.only is None or part.name in options.only]
    if options.dry_run:
        for part in chosen:
            lacking = ", ".join(parts.lacking(part.name))
            doc = " ".join((part.run.__doc__ or "").split())
            print(
                f"{part.name}: at most {part.most:.0f} s. {doc}"
                + (f" MISSING HERE: {lacking}." if lacking else "")
            )
        return 0
    begin = time.monotonic()
    gpu = machine.find_gpu()
    if gpu is None:
        print("gpu-check: torch finds no GPU here, and nothing was run", file=sys.stderr)
        return 2
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if options.only is None:
        for name in FILES:
            (out / name).unlink(missing_ok=True)
    result: dict[str, Any] = {
        "gpu": gpu,
        "versions": machine.versions(),
        "budget": options.budget,
        "seconds": 0.0,
        "parts": {},
    }
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that what runs is ended, and the page is whole
    with tempfile.TemporaryDirectory() as scratch:
        sanitize = any(part.run is parts.sanitizers for part in chosen)
        setting = Setting(out, Path(scratch), gpu["capability"], sanitize)
        try:
            run_all(chosen, setting, result, begin)
        finally:
            kill_all()
            keep(out, result, begin)
    print(f"gpu-check: {out / 'summary.md'}")
    return int(any(part["ok"] is False for part in result["parts"].values()))


def run_all(chosen: Sequence[Part], setting: Setting, result: dict[str, Any], begin: float) -> None:
    end = begin + result["budget"]
    for number, part in enumerate(chosen):
        started = time.monotonic()
        reserved = sum(later.least for later in chosen[number + 1 :])
        limit = min(part.most, max(end - started - reserved, min(part.least, end - started)))
        if part.name != "build" and not built(result):
            found: Result = {"ok": None, "why": "the extension is not built"}
        elif parts.lacking(part.name):
            found = {"ok": None, "why": f"there is no {', no '.join(parts.lacking(part.name))} here"}
        elif limit < LEAST:
            found = {"ok": None, "why": "no time was left"}
        else:
            result["parts"][part.name] = {"ok": None, "why": "was running when the check was stopped"}
            keep(setting.out, result, begin)
            try:
                found = part.run(setting, limit)
            except Exception as error:  # a fault of this program's costs its part alone
                found = {"ok": False, "first_failure": f"{type(error).__name__}: {error}"}
        result["parts"][part.name] = {**found, "seconds": round(time.monotonic() - started, 1)}
        keep(setting.out, result, begin)
        print(f"gpu-check: {part.name} {state(found)} {found.get('why', '')}".rstrip(), flush=True)


def built(result: dict[str, Any]) -> bool:
    """Whether there is an extension of this tree: from now, or from before where this run did not try."""
    tried = result["parts"].get("build", {"ok": None})["ok"]
    return tried is True or (tried is None and any((machine.ROOT / "retinanet_fast").glob("_C*.so")))


def keep(out: Path, result: dict[str, Any], begin: float) -> None:
    result["seconds"] = round(time.monotonic() - begin, 1)
    for name, text in (
        ("gpu_check.json", json.dumps(result, indent=1) + "\n"),
        ("summary.md", summary(out, result)),
    ):
        write_whole(out / name, text.encode())


if __name__ == "__main__":
    sys.exit(main())
