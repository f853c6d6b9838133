"""`python -m benchmarks.gpu_check.kernel_times --json FILE`: each workload's kernels, by torch.profiler."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import suites  # noqa: F401  registers the workloads
from benchmarks.kernel_report.calls import WORKLOADS as PREDICTED
from benchmarks.kernel_report.compiled import short_name
from benchmarks.providers import PROVIDERS, one_line
from benchmarks.report import write_whole
from benchmarks.workload import REGISTRY, Setting

CALLS = 5
# In the order of what is most wanted, where time is short.
WORKLOADS = (
    "retinanet_loss/16x800/bf16/channels_last",
    "retinanet_detect/16x800/bf16/channels_last",
    *(f"nms/uniform/{n}" for n in (1_000, 5_000, 20_000, 200_000)),
    "batched_nms/80/20000",
    "focal/int/bf16/sum/16-images",
    "focal/int/fp32/sum/16-images",
    "retinanet_detect/2x512",
    "match_anchors/20",
    "match_anchors/100",
    "match_anchors/1000",
    "retinanet_loss/2x512",
    "nms/clustered/5000",
    "nms/clustered/20000",
    "batched_nms/1203/20000",
    "box_iou/100",
    "decode_boxes/16-images",
    "encode_boxes/16-images",
    "softmax_focal/fp32/mean",
    "focal/float/fp32/sum",
    "retinanet_detect/2x512/none",
    "retinanet_detect/2x512/untrained",
    "retinanet_detect/2x512/equal",
    "tiny/nms",
)


def measure(call: Callable[[], Any], device: torch.device) -> dict[str, Any]:
    """Microseconds and launches of each kernel a call, and the host's time for a call."""
    for _ in range(3):
        call()
    torch.cuda.synchronize(device)
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    host = time.perf_counter() - begin
    torch.cuda.synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
        for _ in range(CALLS):
            call()
        torch.cuda.synchronize(device)
    rows = [
        {
            "kernel": short_name(event.key),
            "us": round(event.self_device_time_total / CALLS, 2),
            "launches": round(event.count / CALLS, 1),
        }
        for event in recorded.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    rows.sort(key=lambda row: -row["us"])
    return {
        "us": round(sum(row["us"] for row in rows), 1),
        "launches": round(sum(row["launches"] for row in rows), 1),
        "host_us": round(1e6 * host / CALLS, 1),
        "kernels": rows,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parse = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check.kernel_times", description=__doc__)
    parse.add_argument("--json", type=Path, required=True)
    parse.add_argument("workloads", nargs="*", metavar="WORKLOAD", help="default: a choice of all ops")
    options = parse.parse_args(arguments)
    device = torch.device("cuda")
    measured: dict[str, Any] = {}
    chosen = dict.fromkeys(name for name in (*WORKLOADS, *PREDICTED) if name in REGISTRY)
    for name in options.workloads or chosen:
        try:
            call = PROVIDERS["ours"].bind(REGISTRY[name].make(Setting(device)))
            measured[name] = measure(call, device)
            found = measured[name]
            print(f"{name}: {found['us']} us in {found['launches']} kernels, host {found['host_us']} us")
            for row in found["kernels"][:14]:
                print(f"  {row['us']:9.1f} us {row['launches']:5.1f}x  {row['kernel'][:100]}", flush=True)
            del call
        except Exception as error:  # another op's kernels are worth as much
            measured[name] = {"error": one_line(error)}
            print(f"{name}: FAILED: {one_line(error)}", flush=True)
        write_whole(options.json, (json.dumps(measured, indent=1) + "\n").encode())
    return int(any("error" in found for found in measured.values()))


if __name__ == "__main__":
    sys.exit(main())
