"""The workloads as pytest-benchmark cases: `pytest benchmarks/bench_ops.py -k nms`.

Small inputs; `RETINANET_FAST_BENCH=full` in the environment asks for the full ones. The harness decides rounds and
calls and turns the samples into a row, which goes into pytest-benchmark's `extra_info`, and so into
`--benchmark-json`. On CUDA the row is the harness's own device time, and pytest-benchmark's the host's.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import suites  # noqa: F401  registers the workloads
from benchmarks.environment import describe
from benchmarks.harness import Harness, Timing
from benchmarks.providers import PROVIDERS, Unavailable
from benchmarks.runner import Runner
from benchmarks.workload import REGISTRY, Call, Setting

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
QUICK = os.environ.get("RETINANET_FAST_BENCH") != "full"
CASES = [
    pytest.param(
        workload, provider, id=f"{workload.name}-{provider}", marks=pytest.mark.benchmark(group=name)
    )
    for name, workload in REGISTRY.items()
    if DEVICE.type in workload.devices and not name.startswith("growth/")
    for provider in workload.providers
]


@pytest.fixture(scope="module")
def runner() -> Runner:
    harness = Harness(DEVICE, budget=0.05 if QUICK else 1.0)
    return Runner(harness, Setting(DEVICE, QUICK), describe(DEVICE), tuple(PROVIDERS))


@pytest.mark.parametrize(("workload", "provider"), CASES)
def test_workload(benchmark: Any, runner: Runner, workload: Any, provider: str) -> None:
    case = workload.make(runner.setting)
    try:
        call = PROVIDERS[provider].bind(case)
    except Unavailable as missing:
        pytest.skip(str(missing))
    row = runner.blank_row(workload, provider, case)
    row.check = runner.check(case, provider, call, runner.expected(case)[0])
    assert not row.wrong, f"{provider} differs from the eager twin: {row.check}"

    plan = runner.harness.plan(call)
    benchmark.pedantic(partial(_finished, call), rounds=plan.rounds, iterations=plan.calls)
    if DEVICE.type == "cpu" and benchmark.stats is not None:  # None under --benchmark-disable
        timing = Timing.of(benchmark.stats.stats.data, plan)
    else:
        timing = runner.harness.time(call)
    runner.fill(row, case, timing, runner.harness.memory(call))
    benchmark.extra_info.update(row.as_dict())


def _finished(call: Call) -> None:
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)
