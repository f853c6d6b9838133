"""What gpu-check starts, without a GPU: an executable in the place of Python and of every tool, for test_gpu_check.py.

`STAND_IN` in the environment says what goes wrong: `PART:kill` dies by SIGKILL, `PART:hang` sleeps, `PART:fail` fails.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

BENCHMARK = {
    "environment": {},
    "rows": [
        {
            "workload": "nms/uniform/1000",
            "provider": provider,
            "median": seconds,
            "error": None,
            "check": "agrees",
            "bytes_moved": 1 << 30,
            "copy_seconds": 4e-4,
            "logits_copy_seconds": None,
        }
        for provider, seconds in (("ours", 1e-4), ("torchvision", 3e-4))
    ],
    "bars": [
        {
            "workload": "nms/uniform/1000",
            "bar": ">= 2x torchvision",
            "value": 3.0,
            "unit": "x",
            "verdict": "pass",
        },
        {"workload": "nms/uniform/1000", "bar": "<= 0.05 ms", "value": 1e-4, "unit": "s", "verdict": "miss"},
    ],
}
KERNELS = {
    "nms/uniform/1000": {
        "us": 80.0,
        "launches": 2.0,
        "host_us": 9.0,
        "kernels": [{"kernel": "mask_kernel<float>", "us": 80.0, "launches": 2.0}],
    }
}
TRAINING = {"eager": {"images_per_s": 301.5}, "cuda_graph": {"images_per_s": 310.0}}
JUNIT = '<testsuites><testsuite><testcase classname="t" name="one"/></testsuite></testsuites>'


def value(option: str) -> str:
    """`--option value` or `--option=value`."""
    for index, word in enumerate(sys.argv):
        if word == option:
            return sys.argv[index + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return ""


def part() -> str:
    words = sys.argv[1:]
    if "--tool" in words:
        return value("--tool")
    if "pytest" in words:
        return "never_tried" if "tests/test_gpu.py" in words else "tests"
    for name in ("smoke", "kernel_times", "training_steps"):
        if f"benchmarks.gpu_check.{name}" in words:
            return name
    if "benchmarks" in words:
        return "compiled" if "ours,torchvision-compile" in words else "timings"
    return "build"


def main() -> int:
    name = part()
    wrong, _, how = os.environ.get("STAND_IN", "").partition(":")
    print(f"stand-in for {name} begins", flush=True)
    if name in ("tests", "never_tried"):
        Path(value("--junitxml")).write_text(JUNIT)
    elif name in ("timings", "compiled"):
        Path(value("--json")).write_text(json.dumps(BENCHMARK))
    elif name == "kernel_times":
        Path(value("--json")).write_text(json.dumps(KERNELS))
    elif name == "training_steps":
        Path(value("--json")).write_text(json.dumps(TRAINING))
    if wrong == name and how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if wrong == name and how == "hang":
        Path(os.environ["STAND_IN_PID"]).write_text(str(os.getpid()))
        time.sleep(120)
    if wrong == name and how == "fail":
        print("error: it went wrong")
        return 1
    print("retinanet_fast build plan: CPU and CUDA ops\nsmoke nms: ok\n3 cases on cuda: float32")
    return 0


if __name__ == "__main__":
    sys.exit(main())
