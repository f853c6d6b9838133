"""What each part runs, and what it makes of the output. A part is a function of (Setting, seconds) that returns a
dictionary with `ok`, which is written into gpu_check.json as it is."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.gpu_check.machine import ROOT, cores, find_module, find_tool
from benchmarks.gpu_check.process import OUT_OF_TIME, Process, run

Result = dict[str, Any]
PYTHON = sys.executable
SECONDS_PER_ROW = 0.1  # of samples: a GPU's times spread by a few percent
CORES_FOR_BOTH = 8
TRACEBACK = 4000  # characters of the first failure's that are kept


@dataclass
class Setting:
    out: Path  # the folder of what is kept
    scratch: Path  # and of what is not
    capability: str  # the GPU's
    sanitize: bool = False  # whether sanitizers may run beside the tests
    running: dict[str, Process] = field(default_factory=dict)  # sanitizers, begun beside the tests

    @property
    def log(self) -> Path:
        return self.out / "log.txt"


# ---- the extension ----------------------------------------------------------------------------------------------


def build(setting: Setting, limit: float) -> Result:
    """In place, for this GPU alone, with line numbers for the sanitizers. By CMake itself: setup.py does no more, and
    needs a newer setuptools than a machine without the network may have."""
    folder = ROOT / "build" / f"gpu-check-{sys.implementation.cache_tag}"
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    options = {
        "Python_EXECUTABLE": PYTHON,
        "RETINANET_FAST_CUDA": "on",
        "RETINANET_FAST_LINEINFO": "ON",
        "RETINANET_FAST_VERSION": version[1] if version else "0.0.0",
    }
    definitions = [f"-D{name}={value}" for name, value in options.items()]
    end = time.monotonic() + limit
    cmake = find_tool("cmake") or "cmake"
    configure = [cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", *definitions]
    status, text = run("build", configure, setting.log, limit, TORCH_CUDA_ARCH_LIST=setting.capability)
    plan = re.search(r"retinanet_fast build plan: (.*)", text)
    if status == 0:
        compile_all = [cmake, "--build", str(folder), "--parallel", str(cores())]
        status, text = run("build", compile_all, setting.log, end - time.monotonic())
    result: Result = {"ok": status == 0, "status": status, "plan": plan[1] if plan else None}
    result["spills"] = re.findall(r"(\S+\.cu): .* SPILL", text)
    if status != 0:
        lines = text.splitlines()
        first = next(
            (i for i, line in enumerate(lines) if re.search(r"\berror\b|CMake Error|FAILED", line)), -20
        )
        result["first_failure"] = "\n".join(lines[first:][:20])[:TRACEBACK]
    return result


# ---- correctness ------------------------------------------------------------------------------------------------


def smoke(setting: Setting, limit: float) -> Result:
    """One call of every op, forward and backward, against the CPU kernels; which op failed is known by its line."""
    status, text = run(
        "smoke",
        [PYTHON, "-m", "benchmarks.gpu_check.smoke"],
        setting.log,
        limit,
        CUDA_LAUNCH_BLOCKING="1",  # an error comes from the op that caused it
    )
    found = dict(re.findall(r"^smoke (\w+): (.*)$", text, re.M))
    failures = [f"{op}: {verdict}" for op, verdict in found.items() if verdict != "ok"]
    result: Result = {"ok": status == 0, "status": status, "passed": len(found) - len(failures)}
    result["failures"] = failures
    if status != 0:
        result["first_failure"] = failures[0] if failures else "\n".join(text.splitlines()[-10:])
    return result


def op_tests() -> list[str]:
    """The files that have CUDA cases: a test file or more per op, and the kernels' own."""
    ops = sorted(path.stem for path in (ROOT / "retinanet_fast" / "ops").glob("[a-z]*.py"))
    files = [ROOT / "tests" / "test_kernels.py"]
    files += [path for op in ops for path in sorted((ROOT / "tests").glob(f"test_{op}*.py"))]
    return [str(path.relative_to(ROOT)) for path in dict.fromkeys(files) if path.exists()]


def tests(setting: Setting, limit: float) -> Result:
    """The CUDA cases of the ops' tests, in processes side by side where pytest-xdist is there; beside them, on a
    machine with the cores for it, the first sanitizers."""
    if setting.sanitize and cores() >= CORES_FOR_BOTH and not lacking("sanitizers"):
        begin_sanitizers(setting, FIRST_SANITIZERS)
    processes = max(1, min(8, cores() // 2))
    parallel = ["-n", str(processes)] if find_module("xdist") and processes > 1 else []
    chosen = ["-k", "cuda or gpu", *parallel, *op_tests()]
    return pytest("tests", setting, limit, chosen, setting.out / "tests.xml")


def never_tried(setting: Setting, limit: float) -> Result:
    """tests/test_gpu.py and test_gpu_training.py: what only a GPU can show, and no emulator."""
    files = ["tests/test_gpu.py", "tests/test_gpu_training.py"]
    return pytest("gpu", setting, limit, files, setting.scratch / "gpu.xml")


def pytest(name: str, setting: Setting, limit: float, chosen: Sequence[str], report: Path) -> Result:
    report.unlink(missing_ok=True)
    command = [
        PYTHON,
        "-m",
        "pytest",
        "-q",
        "-rfE",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
    ]
    command += ["--continue-on-collection-errors", f"--junitxml={report}", *chosen]
    status, text = run(name, command, setting.log, limit, OMP_NUM_THREADS="1")
    result: Result = {"status": status, **read_junit(report)}
    passed = result.get("passed", 0) > 0  # all skipped is no success: was the GPU seen?
    result["ok"] = status == 0 and passed
    if status == OUT_OF_TIME and passed and not result.get("failures"):
        result["ok"] = None  # neither: the cases that ran have passed
    elif not result["ok"] and not result.get("first_failure"):
        result["first_failure"] = "\n".join([*result.get("skips", []), *text.splitlines()[-15:]])[:TRACEBACK]
    return result


def read_junit(report: Path) -> Result:
    """Counts, names of what failed, the first failure whole, and what was skipped and why."""
    try:
        root = ElementTree.parse(report).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    cases = list(root.iter("testcase"))
    name = {case: f"{case.get('classname')}::{case.get('name')}" for case in cases}
    wrong = [(name[case], bad) for case in cases for bad in case if bad.tag in ("failure", "error")]
    skipped = [(name[case], skip.get("message", "")) for case in cases for skip in case.findall("skipped")]
    result: Result = {
        "passed": len(cases) - len({name for name, _ in wrong}) - len(skipped),
        "failed": len(wrong),
        "skipped": len(skipped),
        "failures": [name for name, _ in wrong],
        "skips": sorted({reason for _, reason in skipped}),
    }
    if wrong:
        case, first = wrong[0]
        result["first_failure"] = f"{case}\n{first.get('message', '')}\n{first.text or ''}"[:TRACEBACK]
    return result


# ---- sanitizers -------------------------------------------------------------------------------------------------

FIRST_SANITIZERS = ("memcheck", "racecheck")
LAST_SANITIZERS = ("synccheck", "initcheck")


def begin_sanitizers(setting: Setting, names: Sequence[str]) -> None:
    """Each over one short pass of every kernel (tests/kernel_cases.py)."""
    for name in names:
        # Only our kernels are instrumented; but initcheck has to see what torch's wrote.
        kernels = [] if name == "initcheck" else ["--kernel-name", "kns=retinanet_fast"]
        command = [find_tool("compute-sanitizer") or "compute-sanitizer", "--tool", name, *kernels]
        command += [PYTHON, "tests/kernel_cases.py", "--device", "cuda"]
        # Without torch's cache each tensor is a block of memory of its own, so that its ends are seen.
        more = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        setting.running[name] = Process(name, command, setting.log, **more)


def end_sanitizers(setting: Setting, limit: float, names: Sequence[str]) -> Result:
    end = time.monotonic() + limit
    results: Result = {}
    for name in names:
        process = setting.running.pop(name)
        status, text = process.wait(end - time.monotonic())
        reported, ours = sanitizer_errors(text)
        # Not by the exit code: reports in torch's own kernels are not ours to mend. Yet the pass must be whole.
        complete = "cases on cuda" in text
        ok: bool | None = complete and ours == 0
        if status == OUT_OF_TIME and ours == 0 and not complete:
            ok = None  # neither: nothing was found as far as it came
        results[name] = {
            "ok": ok,
            "status": status,
            "reports": reported,
            "in_our_kernels": ours,
            "seconds": process.seconds,
        }
        if ok is False:
            first = re.search(
                r"^=========.*?(?:retinanet_fast|Error|error).*(?:\n=========.*){0,12}", text, re.M
            )
            results[name]["first_failure"] = (first[0] if first else text[-1000:])[:TRACEBACK]
    verdicts = [result["ok"] for result in results.values()]
    return {"ok": False if False in verdicts else None if None in verdicts else True, **results}


def sanitizers(setting: Setting, limit: float) -> Result:
    """memcheck and racecheck of every kernel: waited for, where they run beside the tests already."""
    begin_sanitizers(setting, [name for name in FIRST_SANITIZERS if name not in setting.running])
    return end_sanitizers(setting, limit, FIRST_SANITIZERS)


def last_sanitizers(setting: Setting, limit: float) -> Result:
    """synccheck and initcheck, the slowest."""
    begin_sanitizers(setting, LAST_SANITIZERS)
    return end_sanitizers(setting, limit, LAST_SANITIZERS)


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


# ---- speed ------------------------------------------------------------------------------------------------------


def timings(setting: Setting, limit: float) -> Result:
    """Ours and torchvision on every workload, those with a bar first, in one process."""
    return benchmarks("timings", setting, limit, "ours,torchvision", setting.out / "bench.json")


def compiled(setting: Setting, limit: float) -> Result:
    """Against torch.compile, where there is a bar for it."""
    providers = "ours,torchvision-compile"
    return benchmarks("compiled", setting, limit, providers, setting.out / "compiled.json", only_bars=True)


def benchmarks(
    name: str, setting: Setting, limit: float, providers: str, document: Path, *, only_bars: bool = False
) -> Result:
    document.unlink(missing_ok=True)
    command = [PYTHON, "-m", "benchmarks", "--device", "cuda", "--providers", providers]
    command += ["--budget-per-row", str(SECONDS_PER_ROW), "--seconds", f"{max(1.0, limit - 16):.0f}"]
    command += ["--json", str(document), "--chart", str(setting.scratch / "chart.png")]
    command += ["--filter", bar_pattern("compile" if only_bars else "")]
    command += [] if only_bars else ["--filter", "^(?!growth/)"]
    status, text = run(name, command, setting.log, limit)
    rows: list[Result] = []
    bars: list[Result] = []
    if document.exists():
        measured = json.loads(document.read_text())
        rows, bars = measured["rows"], measured["bars"]
    wrong = [
        f"{row['workload']}: {row['error'] or row['check']}"
        for row in rows
        if row["provider"] == "ours" and (row["error"] or row["check"] not in ("agrees", "unchecked"))
    ]
    left_out = re.search(r"out of time: left out (.*)", text)
    result: Result = {
        # Out of time is no failure: what was measured by then is in the file.
        "ok": status in (0, OUT_OF_TIME) and bool(rows) and not wrong,
        "status": status,
        "rows": len(rows),
        **{verdict: sum(bar["verdict"] == verdict for bar in bars) for verdict in ("pass", "miss")},
        "left_out": left_out[1].split(", ") if left_out else [],
        "failures": wrong,
    }
    if not result["ok"]:
        result["first_failure"] = wrong[0] if wrong else "\n".join(text.splitlines()[-15:])
    return result


def bar_pattern(text: str) -> str:
    """Of the workloads with a bar on a GPU whose text has this."""
    from benchmarks.bars import BARS

    names = dict.fromkeys(bar.workload for bar in BARS["cuda"] if text in bar.text)
    return f"^({'|'.join(map(re.escape, names))})$"


def kernel_times(setting: Setting, limit: float) -> Result:
    """One torch.profiler pass over the workloads: each kernel's time and launches a call."""
    result, measured = by_item("kernels", "kernel_times", setting, limit)
    return {**result, "workloads": len(measured)}


def training_steps(setting: Setting, limit: float) -> Result:
    """50 steps of the trainer, R50 at 800 px, 16 images in bfloat16, in which the host may not wait for the GPU."""
    result, measured = by_item("training", "training_steps", setting, limit)
    rates = {kind: found["images_per_s"] for kind, found in measured.items() if "error" not in found}
    return {**result, "rates": rates}


def by_item(name: str, module: str, setting: Setting, limit: float) -> tuple[Result, Result]:
    """The verdict on a module of this package, and what it measured; it writes each item down when it has it."""
    document = setting.out / f"{name}.json"
    document.unlink(missing_ok=True)
    command = [PYTHON, "-m", f"benchmarks.gpu_check.{module}", "--json", str(document)]
    status, text = run(name, command, setting.log, limit)
    measured: Result = json.loads(document.read_text()) if document.exists() else {}
    failures = [f"{item}: {found['error']}" for item, found in measured.items() if "error" in found]
    ok = status in (0, OUT_OF_TIME) and bool(measured) and not failures
    result: Result = {"ok": ok, "status": status, "failures": failures}
    if not ok:
        result["first_failure"] = "\n".join([*failures, *text.splitlines()[-15:]])[:TRACEBACK]
    return result, measured


# ---- what a part needs ------------------------------------------------------------------------------------------

TOOLS = {
    "build": ("nvcc", "cmake", "ninja", "c++"),
    "sanitizers": ("compute-sanitizer",),
    "last_sanitizers": ("compute-sanitizer",),
}
MODULES = {
    "smoke": ("pytest",),  # its inputs are the tests'
    "tests": ("pytest",),
    "sanitizers": ("pytest",),
    "never_tried": ("pytest",),
    "last_sanitizers": ("pytest",),
    "compiled": ("torchvision",),
    "training_steps": ("PIL",),
}


def lacking(part: str) -> list[str]:
    """What the part cannot do without and this machine has not."""
    tools = [tool for tool in TOOLS.get(part, ()) if find_tool(tool) is None]
    return tools + [module for module in MODULES.get(part, ()) if not find_module(module)]
