"""`python -m benchmarks.kernel_report`."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.kernel_report.account import Row, account, resources
from benchmarks.kernel_report.compiled import ROOT, Missing, compile_kernels, find_cuobjdump, run
from benchmarks.kernel_report.gpu import H100, H200
from benchmarks.kernel_report.model import Call, Compiled, call_of
from benchmarks.kernel_report.page import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results"
ARCHITECTURES = ("80", "90", "100")


def compiler_version() -> str:
    found = re.search(r"release ([\d.]+)", run("nvcc", "--version"))
    return f"nvcc {found[1]}" if found else "nvcc"


def code_of(rows: Sequence[Row]) -> dict[str, Compiled]:
    """For the architecture that is predicted."""
    return {
        row.kernel: Compiled(
            row.registers, row.shared_bytes, row.instructions_per_element, row.bytes_per_element
        )
        for row in rows
        if row.architecture == H200.architecture
    }


def count_calls() -> list[dict[str, Any]]:
    """In a process of its own: it replaces the extension."""
    path = ROOT / "build" / "kernel-report" / "counts.json"
    command = [sys.executable, "-m", "benchmarks.kernel_report.counting", "--json", str(path)]
    result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(result.stdout)
    return list(json.loads(path.read_text()))


def document(rows: Sequence[Row], calls: Sequence[Call], compiler: str) -> dict[str, Any]:
    """What the page shows, and what gpu-check compares with its measurements."""
    return {
        "compiler": compiler,
        "gpus": [asdict(H200), asdict(H100)],
        "calls": [call.as_json() for call in calls],
        "streams": [asdict(row) for row in rows if row.is_shown],
        "resources": [asdict(found) for found in resources(rows)],
    }


def lines_of(made: Mapping[str, Any]) -> str:
    """As JSON, a line for each row."""
    parts = []
    for key, value in made.items():
        rows = [json.dumps(one) for one in value] if isinstance(value, list) else None
        parts.append(
            f"{json.dumps(key)}: " + (json.dumps(value) if rows is None else "[\n" + ",\n".join(rows) + "\n]")
        )
    return "{" + ",\n".join(parts) + "}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_report",
        description="Read the compiled CUDA kernels, count what they do in whole calls, predict times.",
    )
    parse.add_argument("--architectures", default=",".join(ARCHITECTURES), help="such as 80,90 (%(default)s)")
    parse.add_argument(
        "--filter", default="", help="only sources whose name contains this, and no calls; writes nothing"
    )
    parse.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of kernel_report.md and .json (%(default)s)"
    )
    options = parse.parse_args(arguments)
    architectures = options.architectures.split(",")
    try:
        find_cuobjdump()  # before the minutes that compiling takes
        compiled = compile_kernels(architectures, options.filter)
        rows = [row for kernels in compiled for row in account(kernels, architectures)]
        code = code_of(rows)
        calls = [] if options.filter else [call_of(counted, (H200, H100), code) for counted in count_calls()]
    except (Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    made = document(rows, calls, compiler_version())
    text = markdown(made, architectures)
    print(text)
    if not options.filter:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernel_report.md").write_text(text)
        (options.out / "kernel_report.json").write_text(lines_of(made))
    return 0


if __name__ == "__main__":
    sys.exit(main())
