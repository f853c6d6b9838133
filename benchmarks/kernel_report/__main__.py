"""`python -m benchmarks.kernel_report`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.kernel_report.account import H200, account
from benchmarks.kernel_report.compiled import Missing, compile_kernels, find_cuobjdump, run
from benchmarks.kernel_report.page import markdown

RESULTS = Path(__file__).resolve().parents[1] / "results"
ARCHITECTURES = ("80", "90", "100")


def compiler_version() -> str:
    found = re.search(r"release ([\d.]+)", run("nvcc", "--version"))
    return f"nvcc {found[1]}" if found else "nvcc"


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.kernel_report", description="Read the compiled CUDA kernels."
    )
    parse.add_argument("--architectures", default=",".join(ARCHITECTURES), help="such as 80,90 (%(default)s)")
    parse.add_argument("--filter", default="", help="only sources whose name contains this; writes nothing")
    parse.add_argument(
        "--out", type=Path, default=RESULTS, help="folder of kernel_report.md and .json (%(default)s)"
    )
    options = parse.parse_args(arguments)
    architectures = options.architectures.split(",")
    try:
        find_cuobjdump()  # before the minutes that compiling takes
        compiled = compile_kernels(architectures, options.filter)
        rows = [row for kernels in compiled for row in account(kernels, architectures)]
    except (Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
    compiler = compiler_version()
    text = markdown(rows, compiler)
    print(text)
    if not options.filter:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "kernel_report.md").write_text(text)
        document = {"compiler": compiler, "gpu": asdict(H200), "rows": [asdict(row) for row in rows]}
        (options.out / "kernel_report.json").write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
