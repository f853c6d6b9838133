"""`python -m benchmarks.gpu_check`: build on a GPU machine, test, sanitize and measure, and write one JSON of it.

Needs an installed CUDA build of torch (>= 2.6), nvcc of the same major version, cmake, ninja and pytest; no network.
The whole fits in ten minutes; `--only tests` and the like run a part alone. Without a GPU: one line, exit code 2.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "gpu-check"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")

# Seconds after which a part is stopped; together less than ten minutes.
LIMITS = {"build": 150, "tests": 180, "sanitizers": 120, "benchmarks": 140}

# Workloads as `python -m benchmarks --filter` takes them, a process each.
BENCHMARKS = (
    "^focal/int/.*/16-images",
    "^nms/uniform/(1000|5000|20000)$|^batched_nms/",
    "^retinanet_loss/16x800",
    "^retinanet_detect/16x800",
    "^(en|de)code_boxes/16-images|^match_anchors/",
    "^tiny/",
    "^nms/(clustered|uniform/200000)",
    "^focal/.*(sum|mean|none)$|^softmax_focal|^box_iou",
)


def find_gpu() -> dict[str, str] | None:
    """Name, driver, memory and compute capability of the first GPU, by nvidia-smi and torch; None without one."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "name": torch.cuda.get_device_name(0),
        "capability": f"{major}.{minor}",
        "driver": first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "memory": first_line("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader"),
    }


def first_line(*command: str) -> str:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return lines[0].strip() if lines else "unknown"


def versions() -> dict[str, str]:
    import torch

    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    release = re.search(r"release [\d.]+, V([\d.]+)", capture([nvcc, "--version"]))
    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "nvcc": release[1] if release else "none",
        "compiler": first_line("c++", "--version"),
        "commit": first_line(
            "git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"
        ),
    }


def capture(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError as error:
        return str(error)


# ---- running a command as a part --------------------------------------------------------------------------------


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"} | more


def run(name: str, command: Sequence[str], limit: float, **more: str) -> tuple[int, str]:
    """Its exit code (124 when it ran past `limit` seconds) and output, which is shown and kept in RUNS/<name>.log."""
    print("+", " ".join(command), flush=True)
    log = RUNS / f"{name}.log"
    with log.open("w") as output:
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env=environment(**more),
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=limit,
            ).returncode
        except subprocess.TimeoutExpired:
            status = 124
        except OSError as error:
            output.write(f"{error}\n")
            status = 127
    text = log.read_text(errors="replace")
    print("\n".join(text.splitlines()[-15:]), flush=True)
    return status, text


# ---- the parts --------------------------------------------------------------------------------------------------


def build(limit: float) -> dict[str, Any]:
    """In place, for this GPU alone; a machine without the network has what the build needs installed."""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}{os.pathsep}/usr/local/cuda/bin"
    status, text = run(
        "build",
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        limit,
        PATH=scripts,
        RETINANET_FAST_CUDA="on",
        TORCH_CUDA_ARCH_LIST=f"{major}.{minor}",
    )
    plan = re.search(r"retinanet_fast build plan: (.*)", text)
    spills = re.findall(r"(\S+\.cu): .* SPILL", text)
    return {"ok": status == 0, "status": status, "plan": plan[1] if plan else None, "spills": spills}


def tests(limit: float) -> dict[str, Any]:
    """The whole suite, its CUDA cases among it. Processes side by side, where pytest-xdist is there."""
    parallel = ["-n", "6"] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-r", "fE", "--tb=short", *parallel, "tests"]
    status, text = run("tests", command, limit)
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text)
    }
    return {
        "ok": status == 0,
        "status": status,
        **counts,
        "failures": re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.M),
    }


def find_sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")


def sanitizer_errors(text: str) -> tuple[int, int]:
    """Reports in compute-sanitizer's output, and how many of them name a kernel of ours (torch's kernels run too)."""
    lines = [
        line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")
    ]
    reports = "\n".join(lines)
    starts = r"^(?=Invalid |Misaligned |Uninitialized |Error: |Warning: Race|Race reported|Barrier error|Program hit)"
    found = [part for part in re.split(starts, reports, flags=re.MULTILINE)[1:] if part]
    return len(found), sum("retinanet_fast::" in part for part in found)


def sanitizers(limit: float) -> dict[str, Any]:
    """Each tool over one short pass of every kernel (tests/kernel_cases.py)."""
    tool = find_sanitizer()
    if tool is None:
        return {"ok": False, "error": "no compute-sanitizer on PATH or in /usr/local/cuda/bin"}
    results: dict[str, Any] = {}
    for name in SANITIZERS:
        status, text = run(
            name,
            [
                tool,
                "--tool",
                name,
                "--error-exitcode",
                "9",
                sys.executable,
                "tests/kernel_cases.py",
                "--device",
                "cuda",
            ],
            limit / len(SANITIZERS),
            PYTORCH_NO_CUDA_MEMORY_CACHING="1",  # a block of memory for each tensor, so that its ends are seen
        )
        reported, ours = sanitizer_errors(text)
        # Not by the exit code alone: reports in torch's own kernels are not ours to mend. Yet the pass must be whole.
        complete = "cases on cuda" in text
        results[name] = {
            "ok": complete and ours == 0,
            "status": status,
            "reports": reported,
            "in_our_kernels": ours,
        }
    return {"ok": all(result["ok"] for result in results.values()), **results}


def benchmarks(limit: float) -> dict[str, Any]:
    """Of `python -m benchmarks`, group by group while there is time, those with bars on a GPU first."""
    end = time.monotonic() + limit
    result: dict[str, Any] = {"ok": True, "left_out": [], "rows": [], "bars": []}
    for group in BENCHMARKS:
        left = end - time.monotonic()
        if left < 10:
            result["left_out"].append(group)
            continue
        document = RUNS / "benchmarks.json"
        document.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks",
            "--device",
            "cuda",
            "--filter",
            group,
            "--json",
            str(document),
        ]
        status, _ = run("benchmarks", [*command, "--chart", str(RUNS / "benchmarks.png")], left)
        if not document.exists():
            result["left_out"].append(group)
            result["ok"] = result["ok"] and status == 124
            continue
        measured = json.loads(document.read_text())
        result["ok"] = result["ok"] and status == 0
        result["environment"] = measured.get("environment")
        result["rows"] += measured.get("rows", [])
        result["bars"] += measured.get("bars", [])
    return result


PARTS: dict[str, Callable[[float], dict[str, Any]]] = {
    "build": build,
    "tests": tests,
    "sanitizers": sanitizers,
    "benchmarks": benchmarks,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("--only", action="append", choices=list(PARTS), help="one part; may be given again")
    parse.add_argument("--json", type=Path, default=RUNS / "gpu_check.json", help="(%(default)s)")
    parse.add_argument("--dry-run", action="store_true", help="say what would run; needs no GPU")
    options = parse.parse_args(arguments)
    chosen = [name for name in PARTS if options.only is None or name in options.only]
    if options.dry_run:
        for name in chosen:
            print(f"{name}: at most {LIMITS[name]} s. {(PARTS[name].__doc__ or '').splitlines()[0]}")
        return 0
    gpu = find_gpu()
    if gpu is None:
        print("gpu-check: torch finds no GPU here, and nothing was run", file=sys.stderr)
        return 2
    RUNS.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"gpu": gpu, "versions": versions(), "parts": {}}
    for name in chosen:
        begin = time.monotonic()
        part = PARTS[name](LIMITS[name])
        result["parts"][name] = {**part, "seconds": round(time.monotonic() - begin, 1)}
        print(f"gpu-check: {name} {'ok' if part['ok'] else 'FAILED'}", flush=True)
        write(options.json, result)
        if name == "build" and not part["ok"]:
            break  # nothing to test
    print(f"gpu-check: wrote {options.json}")
    return int(not all(part["ok"] for part in result["parts"].values()))


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
