"""`python -m benchmarks.gpu_check`: build on a GPU machine, test, sanitize and measure, and write one JSON of it.

Needs an installed CUDA build of torch (>= 2.6), nvcc of the same major version, cmake, ninja and pytest; no network.
The whole fits in ten minutes; `--only tests` and the like run a part alone. Without a GPU, or where a tool is missing:
one line, exit code 2. `--dry-run` needs none: it says what each part would run, and with what it finds here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "gpu-check"
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")

# Seconds after which a part is stopped; together less than ten minutes. What a part leaves of its own goes to the next.
LIMITS = {"build": 150, "tests": 180, "sanitizers": 120, "benchmarks": 140}

# Workloads as `python -m benchmarks --filter` takes them, a process each.
BENCHMARKS = (
    "^focal/int/fp32/.*/16-images",
    "^focal/int/bf16/.*/16-images",
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


def find_tool(name: str) -> str | None:
    """On PATH, beside this Python, or in the CUDA toolkit's usual place."""
    return shutil.which(name, path=search_path())


def search_path() -> str:
    scripts = Path(sys.executable).parent
    return os.pathsep.join([str(scripts), os.environ.get("PATH", os.defpath), "/usr/local/cuda/bin"])


def missing(parts: Sequence[str]) -> list[str]:
    """What these parts cannot do without and this machine lacks."""
    tools = {"build": ("nvcc", "cmake", "ninja", "c++"), "sanitizers": ("compute-sanitizer",)}
    lacking = [tool for part in parts for tool in tools.get(part, ()) if find_tool(tool) is None]
    needs_pytest = {"tests", "sanitizers"} & set(parts)  # their inputs are the same
    return lacking + ["pytest"] * bool(needs_pytest and find_spec("pytest") is None)


def first_line(*command: str) -> str:
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return lines[0].strip() if lines else "unknown"


def versions() -> dict[str, str]:
    import torch

    release = re.search(r"release [\d.]+, V([\d.]+)", capture([find_tool("nvcc") or "nvcc", "--version"]))
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
    """The package is the source tree's, into which it is built; the build's tools are on PATH."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PATH": search_path(), "PYTHONUNBUFFERED": "1"} | more


def run(name: str, command: Sequence[str], limit: float, **more: str) -> tuple[int, str]:
    """Its exit code (124 when it ran past `limit` seconds) and output, which is shown and kept in RUNS/<name>.log."""
    print("+", " ".join(command), flush=True)
    log = RUNS / f"{name}.log"
    with log.open("w") as output:
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(**more),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what it starts can be stopped with it
            )
        except OSError as error:
            output.write(f"{error}\n")
            return 127, str(error)
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = 124
        except BaseException:  # Ctrl-C reaches no other session
            os.killpg(process.pid, signal.SIGKILL)
            raise
    text = log.read_text(errors="replace")
    print("\n".join([f"{name}: exit code {status}", *text.splitlines()[-15:]]), flush=True)
    return status, text


# ---- the parts --------------------------------------------------------------------------------------------------


def build(limit: float) -> dict[str, Any]:
    """In place, for this GPU alone; a machine without the network has what the build needs installed."""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    status, text = run(
        "build",
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        limit,
        RETINANET_FAST_CUDA="on",
        TORCH_CUDA_ARCH_LIST=f"{major}.{minor}",
    )
    plan = re.search(r"retinanet_fast build plan: (.*)", text)
    spills = re.findall(r"(\S+\.cu): .* SPILL", text)
    return {"ok": status == 0, "status": status, "plan": plan[1] if plan else None, "spills": spills}


def tests(limit: float) -> dict[str, Any]:
    """The whole suite, its CUDA cases among it. Processes side by side, where pytest-xdist is there."""
    cores = os.cpu_count() or 1
    processes = max(1, min(8, cores // 2))
    parallel = ["-n", str(processes)] if find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-q", "-r", "fEs", "--tb=short", *parallel, "tests"]
    threads = cores // processes if parallel else cores
    status, text = run("tests", command, limit, OMP_NUM_THREADS=str(threads))
    counts = {
        word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", text)
    }
    return {
        "ok": status == 0,
        "status": status,
        **counts,
        "failures": re.findall(r"^(?:FAILED|ERROR) (\S+)", text, re.M),
        "skips": re.findall(r"^SKIPPED (.*)", text, re.M),
    }


def sanitizer_errors(text: str) -> tuple[int, int]:
    """Reports in compute-sanitizer's output, and how many of them lie in a kernel of ours (torch's kernels run too)."""
    lines = [
        line.removeprefix("=========").strip() for line in text.splitlines() if line.startswith("=========")
    ]
    reports = "\n".join(lines)
    starts = r"^(?=Invalid |Misaligned |Uninitialized |Error: |Warning: Race|Race reported|Barrier error|Program hit)"
    found = [part for part in re.split(starts, reports, flags=re.MULTILINE)[1:] if part]
    # Behind the kernel comes the host's stack, on which our ops stand also where a kernel of torch failed.
    kernels = [re.split(r"Saved host backtrace|Host Frame", part)[0] for part in found]
    return len(found), sum("retinanet_fast" in kernel for kernel in kernels)


def sanitize(name: str, limit: float) -> dict[str, Any]:
    # Only our kernels are instrumented; but initcheck has to see what torch's wrote.
    kernels = [] if name == "initcheck" else ["--kernel-regex", "kns=retinanet_fast"]
    command = [find_tool("compute-sanitizer") or "compute-sanitizer", "--tool", name, *kernels]
    pass_of_all = [sys.executable, "tests/kernel_cases.py", "--device", "cuda"]
    status, text = run(
        name,
        [*command, "--error-exitcode", "9", *pass_of_all],
        limit,
        PYTORCH_NO_CUDA_MEMORY_CACHING="1",  # a block of memory for each tensor, so that its ends are seen
    )
    reported, ours = sanitizer_errors(text)
    # Not by the exit code alone: reports in torch's own kernels are not ours to mend. Yet the pass must be whole.
    complete = "cases on cuda" in text
    return {"ok": complete and ours == 0, "status": status, "reports": reported, "in_our_kernels": ours}


def sanitizers(limit: float) -> dict[str, Any]:
    """compute-sanitizer's tools, side by side, each over one short pass of every kernel (tests/kernel_cases.py)."""
    with ThreadPoolExecutor(len(SANITIZERS)) as pool:
        found = pool.map(lambda name: sanitize(name, limit), SANITIZERS)
    results: dict[str, Any] = dict(zip(SANITIZERS, found, strict=True))
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
        command = [sys.executable, "-m", "benchmarks", "--device", "cuda", "--filter", group]
        files = ["--json", str(document), "--chart", str(RUNS / "benchmarks.png")]
        status, _ = run("benchmarks", [*command, *files], left)
        result["ok"] = result["ok"] and status in (0, 124)  # out of time: what was measured by then is kept
        if status == 124:
            result["left_out"].append(f"part of {group}")
        if not document.exists():
            continue
        measured = json.loads(document.read_text())
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
            lacking = f" MISSING HERE: {', '.join(missing([name]))}." if missing([name]) else ""
            print(f"{name}: at most {LIMITS[name]} s.{lacking} {(PARTS[name].__doc__ or '').splitlines()[0]}")
        return 0
    gpu = find_gpu()
    if gpu is None or missing(chosen):
        why = f"there is no {', no '.join(missing(chosen))}" if gpu else "torch finds no GPU"
        print(f"gpu-check: {why} here, and nothing was run", file=sys.stderr)
        return 2
    RUNS.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"gpu": gpu, "versions": versions(), "parts": {}}
    end = time.monotonic()
    for name in chosen:
        end += LIMITS[name]
        begin = time.monotonic()
        part = PARTS[name](end - begin)
        result["parts"][name] = {**part, "seconds": round(time.monotonic() - begin, 1)}
        print(f"gpu-check: {name} {'ok' if part['ok'] else 'FAILED'}", flush=True)
        write(options.json, result)
        if name == "build" and not part["ok"]:
            print("gpu-check: nothing was built, so nothing else was run", file=sys.stderr)
            break
    print(f"gpu-check: wrote {options.json}")
    return int(not all(part["ok"] for part in result["parts"].values()))


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
