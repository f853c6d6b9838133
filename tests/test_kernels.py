"""The CUDA kernels against the CPU kernels: on a GPU, or where there is none, on the CPU by tests/emulator.

`make test-kernels` runs this file and the ops' own tests in the emulator. There this file also checks that any order of
blocks and threads gives the same bits, that every kernel is run, and that planted faults are found.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import DEGENERATE_BOXES, DEVICES, generator, random_boxes
from kernel_cases import CASES, DTYPES, assert_same, eager_twins, has_op, kernels_in_sources

from retinanet_fast import ops

ROOT = Path(__file__).resolve().parent.parent
EMULATOR = ROOT / "tests" / "emulator"

plugin: Any = sys.modules.get("tests.emulator.plugin")  # loaded by `pytest -p`, see run.py
emulated = pytest.mark.skipif(plugin is None, reason="needs the emulator: make test-kernels")
sanitized = plugin is not None and plugin.VARIANT == "sanitized"

NMS_ROUND = 4096  # csrc/kernels/nms.h

# Kernels that the emulator cannot run, with the reason of each.
NOT_RUN: dict[str, str] = {}


def require(name: str) -> None:
    if not has_op(name):
        pytest.skip(f"this build has no {name}")


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("name", CASES)
@emulated
def test_emulated_kernels_equal_the_cpu_kernels(name: str, dtype: torch.dtype) -> None:
    require(name)
    plugin.seed(1)
    results = CASES[name]("cpu", dtype)
    with plugin.cpu_kernels():
        expected = CASES[name]("cpu", dtype)
    assert_same(name, results, expected)


@pytest.mark.parametrize("name", CASES)
@emulated
def test_emulated_kernels_equal_the_eager_twins(name: str) -> None:
    """In float64, where rounding hides nothing; the ops' own tests have the other types."""
    require(name)
    results = CASES[name]("cpu", torch.float64)
    with eager_twins():
        expected = CASES[name]("cpu", torch.float64)
    assert_same(name, results, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize("device", DEVICES[1:])
@pytest.mark.parametrize("name", CASES)
def test_a_gpu_equals_the_cpu_kernels(name: str, device: str, dtype: torch.dtype) -> None:
    require(name)
    assert_same(name, CASES[name](device, dtype), CASES[name]("cpu", dtype))


@pytest.mark.parametrize("name", CASES)
@emulated
def test_same_bits_in_any_order(name: str) -> None:
    require(name)
    results = []
    for seed in (1, 2, 3):
        plugin.seed(seed)
        results.append(CASES[name]("cpu", torch.float32))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@emulated
@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize(
    ("op", "label", "low"),
    [("sigmoid_focal_loss", 3, -2), ("sigmoid_focal_loss", -3, -2), ("softmax_focal_loss", -1, 0)],
)
def test_a_label_outside_the_classes_is_reported_by_the_kernel(
    op: str, label: int, low: int, reduction: str
) -> None:
    x = torch.zeros(5, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, label, 0])
    with pytest.raises(
        IndexError, match=rf"{op}: expected class indices in \[{low}, .\), got {label} in row 3"
    ):
        getattr(ops, op)(x, labels, reduction=reduction)
    labels[3] = 0
    getattr(ops, op)(x, labels, reduction=reduction).sum().backward()  # nothing is left of it


@emulated
@pytest.mark.parametrize("counted", [True, False], ids=["counted", "sorted"])
def test_nms_of_several_rounds(counted: bool) -> None:
    n = NMS_ROUND + 200 if counted else 2 * NMS_ROUND + 1  # the ranks from the kernels, or from torch's sort
    boxes = random_boxes(n, size=30.0) + 250 * torch.rand(n, 2, generator=generator(2)).repeat(1, 2)
    boxes[:: n // 30][: len(DEGENERATE_BOXES)] = torch.tensor(DEGENERATE_BOXES)
    boxes[5 :: n // 30][: len(DEGENERATE_BOXES)] = torch.tensor(DEGENERATE_BOXES)
    scores = torch.rand(n, generator=generator(1))
    kept = ops.nms(boxes, scores, 0.4)
    with plugin.cpu_kernels():
        assert torch.equal(kept, ops.nms(boxes, scores, 0.4))


@pytest.fixture(scope="module")
def launched() -> dict[str, Any]:
    """The kernels that the cases launch, by name."""
    for name, case in CASES.items():
        if has_op(name):
            case("cpu", torch.float32)
    # Several rounds, with ranks from a sort; the first leaves little.
    boxes = random_boxes(2).repeat(NMS_ROUND + 1, 1)
    ops.nms(boxes, torch.rand(len(boxes)), 0.5)
    return plugin.launched_kernels()


@emulated
def test_every_kernel_has_run(launched: dict[str, Any]) -> None:
    assert kernels_in_sources() - {name.split("<")[0] for name in launched} == set(NOT_RUN)


@emulated
def test_block_sizes_of_the_kernel_report(launched: dict[str, Any]) -> None:
    from benchmarks.kernel_report.account import DEFAULT_THREADS, THREADS

    for kernel, launches in launched.items():
        assert launches.threads == THREADS.get(kernel.split("<")[0], DEFAULT_THREADS), kernel


@pytest.fixture(scope="module")
def fault(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, bool], subprocess.CompletedProcess[str]]:
    """Builds a file of tests/emulator/faults with or without its fault, and runs it."""
    folder = tmp_path_factory.mktemp("faults")
    compiler = [
        "g++",
        "-std=c++20",
        "-O1",
        "-g",
        f"-I{EMULATOR / 'include'}",
        f"-I{EMULATOR}",
        f"-I{ROOT / 'csrc'}",
    ]
    checks = ["-fsanitize=thread,alignment,bounds", "-fno-sanitize-recover=all"]
    sources = ("emulator", "memory", "places")
    for source in sources:
        command = [*compiler, "-c", str(EMULATOR / f"{source}.cpp"), "-o", str(folder / f"{source}.o")]
        subprocess.run(command, check=True)
    runtime = [str(folder / f"{source}.o") for source in sources]

    def build_and_run(name: str, planted: bool) -> subprocess.CompletedProcess[str]:
        built = folder / f"{name}-{planted}"
        define = ["-DFAULT"] if planted else []
        source = str(EMULATOR / "faults" / f"{name}.cu")
        # Compiled with instrumentation, linked without: the hooks are ours.
        subprocess.run(
            [*compiler, *checks, *define, "-x", "c++", "-c", source, "-o", f"{built}.o"], check=True
        )
        subprocess.run(["g++", f"{built}.o", *runtime, "-ldl", "-o", str(built)], check=True)
        environment = {"PATH": "/usr/bin:/bin"}  # not the sanitizers that this process may run under
        return subprocess.run([str(built)], capture_output=True, text=True, env=environment)

    return build_and_run


@emulated
@pytest.mark.skipif(sanitized, reason="built by itself, as the checked variant is")
@pytest.mark.parametrize(
    ("name", "report"),
    [
        (
            "missing_barrier",
            r"kernel reverse_kernel, block \(0, 0, 0\), thread \(\d+, 0, 0\): .*copy in shared memory",
        ),
        (
            "off_by_one",
            r"kernel double_kernel, block \(3, 0, 0\), thread \(4, 0, 0\): .*outside every buffer, 0 bytes past",
        ),
        (
            "missing_lane",
            r"kernel sum_kernel, block \(0, 0, 0\), thread \(31, 0, 0\): .*leaves out the calling lane 31",
        ),
        (
            "uninitialised_read",
            r"kernel histogram_kernel, block \(\d, 0, 0\), thread .* that no thread .* has written",
        ),
        (
            "small_workspace",
            r"kernel partial_sums_kernel, block \(2, 0, 0\), thread \(0, 0, 0\): writes .* one of 8",
        ),
        (
            "barrier_not_reached",
            r"kernel early_return_kernel, .* waits at .*_count, which not all .* returned",
        ),
        (
            "missing_warp_barrier",
            r"kernel rotate_kernel, block \(0, 0, 0\), thread .* with no barrier between",
        ),
        (
            "missing_warp_barrier_of_readers",
            r"kernel take_turns_kernel, .* thread .*: writes what .* read with no barrier between",
        ),
        ("misaligned_load", r"kernel copy_kernel, block \(0, 0, 0\), thread .*: misaligned access"),
        ("single_buffer", r"kernel passes_kernel, .* thread .* with no barrier between"),
        ("race", r"kernel shift_kernel, .* thread .* with no barrier between"),
    ],
)
def test_a_planted_fault_is_found(
    name: str, report: str, fault: Callable[[str, bool], subprocess.CompletedProcess[str]]
) -> None:
    right = fault(name, False)
    assert (right.returncode, right.stdout) == (0, "")
    wrong = fault(name, True)
    assert wrong.returncode == 1
    assert re.match(report, wrong.stdout), wrong.stdout
